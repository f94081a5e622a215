import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from maxsup_jax import losses
from maxsup_jax.diagnostics import (
  _blocks,
  calibration,
  checks,
  mutual_information,
  representation,
  selective,
)
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
  with pytest.raises(UsageError, match='logits holds the single logit of a'):
    checks.logits_and_labels(z[:, 0], [0, 1], 'refused')


def test_the_largest_numbers_are_taken():
  for values in (
    np.full((4, 2), 1e150),
    np.full((4, 2), -np.finfo(np.float32).max, np.float32),
  ):
    assert checks.finite(values, 'logits') is values


def test_probabilities_are_no_logits():
  logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  for probabilities, cure in (
    (p, 'every row sums to 1; expected logits: take np.log'),
    (p.astype(np.float16), 'every row sums to 1;'),
    (100 * p, 'every row sums to 100;'),
    (np.round(p, 3), 'every row sums to 1;'),
    (np.eye(4), 'every row sums to 1;'),
    (p[:, 0], r'all are from 0 to 1; .* take np.log\(p\) - np.log1p\(-p\)'),
    (p[:, :1], 'all are from 0 to 1;'),
  ):
    with pytest.raises(UsageError, match=f'^logits holds prob.*{cure}') as e:
      checks.class_scores(probabilities)
    assert '\n' not in str(e.value)
  for fine in (
    logits,
    np.log(p),
    np.concatenate([p, logits]),
    np.zeros((3, 2)),
    np.zeros(3),
    np.abs(logits),
  ):
    checks.class_scores(fine)
  with pytest.raises(UsageError, match='logits holds probabilities'):
    mutual_information.class_logit_difference(np.stack([p, p], 1), 0, 1)


def test_probabilities_become_logits():
  p = np.array([[0.5, 0.25, 0.25], [1, 0, 0]], np.float32)
  got = checks.log_probabilities(p, 'p')
  assert_array_equal(got[0], np.log(p[0]))
  assert np.isfinite(got).all()
  assert got[1, 1] < -100
  rounded = np.array([[0.333, 0.333, 0.333]])
  assert_array_equal(checks.log_probabilities(rounded, 'p'), np.log(rounded))
  single = checks.log_probabilities(np.array([0.75, 0.5]), 'p')
  np.testing.assert_allclose(single, [np.log(3), 0], atol=1e-15)
  for bad, message in (
    ([[0.5, 0.4]], r'the sum of p\[0\] is 0.9; expected probabilities of all'),
    ([[1.5, -0.5]], r'p\[0, 0\] is 1.5; expected probabilities, from 0 to 1'),
  ):
    with pytest.raises(UsageError, match=message):
      checks.log_probabilities(bad, 'p')


def test_arrays_of_other_makers():
  values = np.array([[1.5, -2.0], [0.0, 3.0]], np.float32)
  for dtype in ('>f4', '>f8', '<f8'):
    got = checks.finite(values.astype(dtype), 'x')
    assert got.dtype.isnative
    assert_array_equal(got, values)
  assert checks.class_ids(np.array([0, 1], '>i8'), 2).tolist() == [0, 1]
  with pytest.raises(UsageError, match='x has the dtype object; expected num'):
    checks.finite(values.astype(object), 'x')
  torch = pytest.importorskip('torch')
  tensor = torch.tensor(values, requires_grad=True)
  for x in (tensor, tensor.to(torch.bfloat16), tensor.detach().half()):
    got = checks.finite(x, 'x')
    assert got.dtype == np.float32
    assert_array_equal(got, values)
  state = representation.CosineVariation.init(2, 2)
  for x in (tensor, tensor.to(torch.bfloat16), values.astype('>f4')):
    updated = state.update(x, torch.tensor([0, 1]))
    assert updated.compute().total == pytest.approx(0.9)
  with pytest.raises(UsageError, match="x is not an array: Can't call numpy"):
    checks.array([tensor[0], tensor[1]], 'x')


def test_masked_classes_are_as_if_they_were_not_there():
  """But where the logits themselves are measured."""
  rng = np.random.default_rng(0)
  z = 2 * rng.normal(size=(40, 4))
  y = (z + rng.gumbel(size=z.shape)).argmax(1)
  masked = np.insert(z, 2, -np.inf, 1)
  labels = y + (y > 1)
  for measure in (
    lambda z, y: np.array(list(vars(calibration.per_example(z, y)).values())),
    lambda z, y: calibration.fit_temperature(z, y).temperature,
    lambda z, y: calibration.fit_temperature(z, y, objective='ece').value,
    lambda z, y: np.array(list(selective.scores(z).values())),
    lambda z, y: selective.suppression(
      lambda z, y: 2 * losses.cross_entropy(z, y), z, y
    ),
    lambda z, y: z.shape[1] * calibration.classwise_calibration_error(z, y),
  ):
    expected = measure(z, y)
    np.testing.assert_allclose(measure(masked, labels), expected, rtol=1e-6)
  low, high = calibration.classwise_calibrated_range(masked)
  np.testing.assert_allclose(
    (5 * low, 5 * high),
    np.multiply(4, calibration.classwise_calibrated_range(z)),
    rtol=1e-6,
  )
  for refused in (
    representation.logit_density,
    representation.near_zero_share,
    lambda z: selective.max_logit_pnorm(z, 2),
  ):
    with pytest.raises(
      UsageError, match=r'logits\[0, 2\] is -inf; expected fin'
    ):
      refused(masked)
  labels[3] = 2
  with pytest.raises(
    UsageError, match=r'labels\[3\] is 2; expected a class th'
  ):
    calibration.per_example(masked, labels)
  masked[5, 1:] = -np.inf
  with pytest.raises(
    UsageError, match=r'logits\[5\] has 1 logits that are not'
  ):
    selective.scores(masked)


def test_what_cannot_be_measured_is_one_line():
  def finite(values):
    return checks.finite(values, 'x')

  def weights(values):
    return checks.multiplicities(values, 3)

  def labels(values):
    return checks.logits_and_labels(np.zeros((2, 3)), np.asarray(values))

  def logits(values):
    return checks.logits_and_labels(np.asarray(values), [0, 1])

  for check, values, message in (
    (
      finite,
      [0.0, -1.1e150],
      r'x\[1\] is -1.1e\+150; expected numbers from -1',
    ),
    (finite, np.float64(1e200), r'x is 1e\+200; expected numbers'),
    (finite, [[0.0], [0.0, 1.0]], 'x is not an array: its rows differ in'),
    (finite, ['a'], 'x has the dtype <U1; expected floating point'),
    (checks.labels_alone, [0, 10**11], r'100000000000; expected less, as 2 ex'),
    (checks.labels_alone, np.array([0, 2**64 - 1], np.uint64), '8446744073709'),
    (checks.labels_alone, [0, -1], r'labels\[1\] is -1; expected class ids'),
    (weights, [1, 2], r'weights has the shape \(2,\); expected \(3,\), one'),
    (weights, [1.0, 2, 3], 'weights has the dtype float64; expected integers'),
    (weights, [1, -1, 1], r'weights\[1\] is -1; expected at least 0'),
    (weights, [0, 0, 0], 'weights are all 0; expected'),
    (weights, [2**62] * 3, r'weights add up to 2\*\*31 or more; expected less'),
    (logits, np.zeros((2, 2, 2)), r'logits has the shape \(2, 2, 2\)'),
    (logits, np.zeros((0, 3)), 'logits is empty'),
    (logits, [[0.0, np.nan], [0.0, 0.0]], r'logits\[0, 1\] is nan'),
    (labels, [0, 3], r'labels\[1\] is 3; expected from 0 to 2'),
    (labels, [0.0, 1.0], 'labels has the dtype float64'),
    (labels, [[0, 1]], r'labels has the shape \(1, 2\)'),
    (labels, [0], 'differ: logits 2, labels 1'),
  ):
    with pytest.raises(UsageError, match=message) as e:
      check(values)
    assert '\n' not in str(e.value)
  assert weights([True, False, True]).tolist() == [1, 0, 1]
  assert checks.labels_alone(np.array([2, 0, 1], np.uint64)).dtype == np.int64


def test_blocks_do_not_matter(monkeypatch):
  values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
  ids = np.arange(50)
  for block in (1, 7, 10_000):
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
