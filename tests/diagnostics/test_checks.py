import ml_dtypes
import numpy as np
import pytest

from maxsup_jax._errors import UsageError
from maxsup_jax.diagnostics import _blocks, _checks


def test_a_single_logit_stands_for_two():
  logits, labels = _checks.logits_and_labels(
    np.array([1.5, -2.0], np.float32), np.array([1, 0], np.uint8)
  )
  np.testing.assert_array_equal(logits, [[0, 1.5], [0, -2]])
  assert logits.dtype == np.float32
  assert labels.dtype == np.int64


def test_half_precision_becomes_single():
  values = _checks.finite(np.ones((2, 3), ml_dtypes.bfloat16), 'logits')
  assert values.dtype == np.float32


def test_a_sum_that_overflows_is_not_mistaken_for_a_bad_number():
  values = np.full((4, 2), 1e308)
  assert _checks.finite(values, 'logits') is values


@pytest.mark.parametrize(
  ('logits', 'labels', 'message'),
  [
    (np.zeros((2, 2, 2)), [0, 1], r'logits has the shape \(2, 2, 2\)'),
    (np.zeros((0, 3)), [], r'logits is empty'),
    (np.zeros((2, 0)), [0, 1], r'logits has the shape \(2, 0\)'),
    (np.zeros((2, 3), int), [0, 1], r'logits has the dtype int64'),
    ([[0.0, np.nan], [0.0, 0.0]], [0, 1], r'logits\[0, 1\] is nan'),
    ([[0.0, 1.0], [-np.inf, 0.0]], [0, 1], r'logits\[1, 0\] is -inf'),
    ([[np.inf, 1.0], [-np.inf, 0.0]], [0, 1], r'logits\[0, 0\] is inf'),
    (np.zeros((2, 3)), [0, 3], r'labels\[1\] is 3; expected from 0 to 2'),
    (np.zeros((2, 3)), [-1, 2], r'labels\[0\] is -1'),
    (np.zeros((2, 3)), [0.0, 1.0], r'labels has the dtype float64'),
    (np.zeros((2, 3)), [[0, 1]], r'labels has the shape \(1, 2\)'),
    (np.zeros((2, 3)), [0], r'differ: logits 2, labels 1'),
  ],
)
def test_bad_input_is_one_line(logits, labels, message):
  with pytest.raises(UsageError, match=message) as e:
    _checks.logits_and_labels(np.asarray(logits), np.asarray(labels))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  ('confidence', 'errors', 'message'),
  [
    ([0.1, np.nan], [0, 1], r'confidence\[1\] is nan'),
    ([0.1, 0.2], [0, 2], r'errors\[1\] is 2.0; expected from 0 to 1'),
    ([0.1, 0.2], [True], r'differ: confidence 2, errors 1'),
    ([[0.1]], [0], r'confidence has the shape'),
  ],
)
def test_bad_scores_are_one_line(confidence, errors, message):
  with pytest.raises(UsageError, match=message):
    _checks.scores_and_errors(np.asarray(confidence), np.asarray(errors))


@pytest.mark.parametrize('block', [1, 7, 10_000])
def test_blocks_do_not_matter(monkeypatch, block):
  values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
  ids = np.arange(50)
  monkeypatch.setattr(_blocks, '_BLOCK_SIZE', block)
  total, shifted = _blocks.map_rows(
    lambda v, i: (v.sum(1), i + v.argmax(1)), values, ids
  )
  assert total.dtype == np.float64
  np.testing.assert_array_equal(total, values.astype(np.float64).sum(1))
  np.testing.assert_array_equal(shifted, ids + values.argmax(1))
