"""Builds the run of a card without its dataset."""

import pytest

from maxsup_jax import tasks
from maxsup_jax.tasks import resolve
from tests.configs.cards import BlankSource, get_config


@pytest.fixture
def build(monkeypatch):
  """Builds a run on a dataset of the right form that is not there."""

  def open_source(name, split, **_):
    return BlankSource(name, split)

  monkeypatch.setattr('maxsup_jax.data.open_source', open_source)

  def build(card, arg=None):
    return tasks.build(resolve(get_config(card, arg)))

  return build
