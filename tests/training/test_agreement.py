"""What processes compare. Real ones: experiments/test_train."""

import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import resolve
from maxsup_jax.training import agreement


def answers(monkeypatch, change):
  """Two processes; `change` makes the other's answer of this one's."""
  monkeypatch.setattr(agreement, 'gather', lambda x: [x, change(x)])


def test_a_single_process_agrees_with_itself(tmp_path):
  assert agreement.gather({'a': (1, None)}) == [{'a': [1, None]}]
  agreement.require_same(resolve({}), train_examples=3)
  agreement.require_seen('the files', tmp_path, tmp_path.exists)


def test_what_must_be_the_same(monkeypatch):
  def other(given):
    config, facts = given
    config = config | {'dataset': config['dataset'] | dataset}
    return [config, facts | changes]

  answers(monkeypatch, other)
  # How fast a host reads is its own matter.
  dataset, changes = {'num_threads': 3, 'in_memory': False}, {}
  agreement.require_same(resolve({}), train_examples=3)
  changes = {'train_examples': 4}
  with pytest.raises(UsageError, match=r'differ \(train examples: 3 and 4\)'):
    agreement.require_same(resolve({}), train_examples=3)
  dataset = {'name': 'glyphs'}
  with pytest.raises(UsageError, match=r"name: 'digits' and 'glyphs'; train"):
    agreement.require_same(resolve({}), train_examples=3)


def test_what_comes_late_is_seen(monkeypatch, tmp_path):
  answers(monkeypatch, lambda given: given)
  looks = iter([False, False, True])
  agreement.require_seen('the files', tmp_path, lambda: next(looks))


def test_who_does_not_see_is_named(monkeypatch, tmp_path):
  monkeypatch.setattr(agreement, 'PATIENCE', 0)
  answers(monkeypatch, lambda given: [False, '/elsewhere'])
  match = f'process 1 does not see the files of process 0 in {tmp_path}; '
  with pytest.raises(UsageError, match=match):
    agreement.require_seen('the files', tmp_path, tmp_path.exists)
