"""Fixtures of the tests of the losses."""

from typing import NamedTuple

import jax
import numpy as np
import pytest


class Golden(NamedTuple):
  """Three examples: correct, second of the ranking, last of the ranking."""

  logits: np.ndarray
  labels: np.ndarray
  mixed: np.ndarray


@pytest.fixture(scope='module', autouse=True)
def fast_compilation():
  """Compiling takes most of the time here, and the arrays are tiny."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture
def golden(x64):
  """Examples whose losses were computed with PyTorch in double precision."""
  logits = np.array(
    [[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5], [0.3, 0.2, 0.1, 0.0]]
  )
  labels = np.array([0, 2, 3])
  mixed = 0.7 * np.eye(4)[labels] + 0.3 * np.eye(4)[[1, 1, 0]]
  return Golden(logits, labels, mixed)
