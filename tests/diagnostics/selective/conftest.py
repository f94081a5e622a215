"""Twelve examples whose metrics are known from other implementations."""

from typing import NamedTuple

import numpy as np
import pytest


class Golden(NamedTuple):
  logits: np.ndarray
  labels: np.ndarray
  confidence: np.ndarray  # the maximum softmax probability itself
  errors: np.ndarray


@pytest.fixture
def golden():
  """No ties; the surest prediction is wrong, so all conventions differ."""
  # fmt: off
  logits = np.array([
    [4, 0, -1], [3.5, .2, .1], [3, 1, -2], [.1, 2.8, .3], [0, 2.5, 1],
    [1, .2, 2.4], [.3, .1, 2], [1.5, 1.2, -.5], [.9, 1.1, .8], [.2, .6, .5],
    [-.5, .1, .4], [1.3, -.2, 1.2],
  ])
  # fmt: on
  labels = np.array([1, 0, 0, 1, 1, 2, 2, 1, 1, 2, 2, 0])
  exp = np.exp(logits)
  confidence = (exp / exp.sum(1, keepdims=True)).max(1)
  return Golden(logits, labels, confidence, logits.argmax(1) != labels)
