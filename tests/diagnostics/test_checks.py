import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from maxsup_jax.diagnostics import _blocks, checks
from maxsup_jax.errors import UsageError


def test_a_single_logit_stands_for_two():
  logits, labels = checks.logits_and_labels(
    np.array([1.5, -2.0], np.float32), np.array([1, 0], np.uint8)
  )
  assert_array_equal(logits, [[0, 1.5], [0, -2]])
  assert logits.dtype == np.float32
  assert labels.dtype == np.int64


def test_a_single_logit_may_be_symmetric_or_refused():
  z = np.array([[1.5], [-2.0]], np.float32)
  logits = checks.class_scores(z, single='symmetric')
  assert_array_equal(logits, [[-0.75, 0.75], [1, -1]])
  assert logits.dtype == np.float32
  for single in (z, z[:, 0]):
    with pytest.raises(UsageError, match='logits holds the single logit of a'):
      checks.logits_and_labels(single, [0, 1], 'refused')


def test_the_largest_numbers_are_taken():
  for values in (
    np.full((4, 2), 1e150),
    np.full((4, 2), -np.finfo(np.float32).max, np.float32),
  ):
    assert checks.finite(values, 'logits') is values


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    (
      [0.0, -1.1e150],
      r'x\[1\] is -1.1e\+150; expected numbers from -1e\+150 to',
    ),
    (np.float64(1e200), r'x is 1e\+200; expected numbers'),
    ([1e200, np.nan], r'x\[0\] is 1e\+200'),
    ([[0.0], [0.0, 1.0]], r'x is not an array: its rows differ in length'),
    (['a'], r'x has the dtype <U1; expected floating point'),
  ],
)
def test_numbers_that_cannot_be_measured(values, message):
  with pytest.raises(UsageError, match=message):
    checks.finite(values, 'x')


def test_labels_alone():
  labels = checks.labels_alone(np.array([2, 0, 1], np.uint64))
  assert labels.dtype == np.int64
  assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    ([0, 10**11], r'labels\[1\] is 100000000000; expected less, as 2 examples'),
    (
      np.array([0, 2**64 - 1], np.uint64),
      r'labels\[1\] is 18446744073709551615',
    ),
    ([0, -1], r'labels\[1\] is -1; expected class ids from 0 on'),
    ([0.0, np.nan], r'labels has the dtype float64'),
  ],
)
def test_labels_that_cannot_say_the_number_of_classes(labels, message):
  with pytest.raises(UsageError, match=message):
    checks.labels_alone(labels)


@pytest.mark.parametrize(
  ('weights', 'message'),
  [
    ([1, 2], r'weights has the shape \(2,\); expected \(3,\), one for each'),
    (
      [1.0, 2, 3],
      'weights has the dtype float64; expected integers, the count',
    ),
    ([1, -1, 1], r'weights\[1\] is -1; expected at least 0'),
    ([0, 0, 0], 'weights are all 0; expected'),
    ([2**62] * 3, r'weights add up to 2\*\*31 or more; expected less'),
    (np.array([2**64 - 1, 1, 0], np.uint64), 'weights add up to'),
  ],
)
def test_bad_multiplicities(weights, message):
  with pytest.raises(UsageError, match=message):
    checks.multiplicities(weights, 3)


def test_multiplicities_may_be_bool():
  weights = checks.multiplicities([True, False, True], 3)
  assert weights.dtype == np.int64
  assert weights.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
  ('logits', 'labels', 'message'),
  [
    (np.zeros((2, 2, 2)), [0, 1], r'logits has the shape \(2, 2, 2\)'),
    (np.zeros((0, 3)), [], r'logits is empty'),
    ([[0.0, np.nan], [0.0, 0.0]], [0, 1], r'logits\[0, 1\] is nan'),
    (np.zeros((2, 3)), [0, 3], r'labels\[1\] is 3; expected from 0 to 2'),
    (np.zeros((2, 3)), [0.0, 1.0], r'labels has the dtype float64'),
    (np.zeros((2, 3)), [[0, 1]], r'labels has the shape \(1, 2\)'),
    (np.zeros((2, 3)), [0], r'differ: logits 2, labels 1'),
  ],
)
def test_bad_input_is_one_line(logits, labels, message):
  with pytest.raises(UsageError, match=message) as e:
    checks.logits_and_labels(np.asarray(logits), np.asarray(labels))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('block', [1, 7, 10_000])
def test_blocks_do_not_matter(monkeypatch, block):
  values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
  ids = np.arange(50)
  monkeypatch.setattr(_blocks, '_BLOCK_SIZE', block)
  total, shifted = _blocks.map_rows(
    lambda v, i: (v.sum(1), i + v.argmax(1)), values, ids
  )
  assert total.dtype == np.float64
  assert_array_equal(total, values.astype(np.float64).sum(1))
  assert_array_equal(shifted, ids + values.argmax(1))


_FORK = """
import importlib.util, os, signal, sys
import numpy as np
spec = importlib.util.spec_from_file_location('blocks', sys.argv[1])
blocks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blocks)
values = np.ones((100_000, 3))
mean = lambda: blocks.map_rows(lambda v: v.sum(1), values).mean()
assert mean() == 3
pid = os.fork()
if not pid:
  signal.alarm(20)  # the child of a test that fails must not stay
  os._exit(7 if mean() == 3 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork here')
def test_a_forked_child_has_threads_of_its_own():
  # Without JAX, which does not survive a fork.
  command = [sys.executable, '-c', _FORK, _blocks.__file__]
  assert subprocess.run(command, timeout=60, check=False).returncode == 7
