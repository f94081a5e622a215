"""Losses per pixel in blocks of rows, against PyTorch with all logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses
from maxsup_jax.errors import UsageError

K = 5
ALPHA = 0.3
OBJECTIVES = {
  'ce': losses.ce_objective(),
  'ls': losses.ls_objective(ALPHA),
  'maxsup': losses.maxsup_objective(ALPHA),
}


def arrays(h=5, w=4, H=19, W=16, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(0, 3, (2, h, w, K)).astype(np.float32)
  labels = rng.integers(0, K, (2, H, W)).astype(np.uint8)
  labels[rng.uniform(size=labels.shape) < 0.3] = 255
  return logits, labels


def in_torch(name, logits, labels):
  """Losses of all pixels, and the gradient of their sum."""
  torch = pytest.importorskip('torch')
  functional = torch.nn.functional
  small = torch.tensor(logits.transpose(0, 3, 1, 2).copy(), dtype=torch.float64)
  small.requires_grad_()
  z = functional.interpolate(
    small, labels.shape[1:3], mode='bilinear', align_corners=False
  )
  y = torch.from_numpy(labels.astype(np.int64))
  options = {'label_smoothing': ALPHA} if name == 'ls' else {}
  values = functional.cross_entropy(
    z, y, ignore_index=255, reduction='none', **options
  )
  if name == 'maxsup':
    values = values + ALPHA * (z.amax(1) - z.mean(1)) * (y != 255)
  values.sum().backward()
  return values.detach().numpy(), small.grad.permute(0, 2, 3, 1).numpy()


@functools.cache
def compiled(name, **options):
  """Tests with arrays of the same shapes share a program."""

  @functools.partial(jax.value_and_grad, has_aux=True)
  def total(logits, labels, where):
    found = losses.pixel_loss(
      OBJECTIVES[name], logits, labels, where=where, **options
    )
    return found.sums()[0], found

  return jax.jit(total)


def value_and_grad(name, logits, labels, where=None, **options):
  if where is None:
    where = np.ones(labels.shape[:3], bool)
  (_, found), gradient = compiled(name, **options)(logits, labels, where)
  return found, gradient


@pytest.mark.parametrize(
  ('name', 'block_rows'),
  [
    pytest.param('ce', None, marks=pytest.mark.slow),
    ('ls', None),
    ('maxsup', None),
    ('maxsup', 3),
  ],
)
def test_equals_the_loss_of_all_logits(name, block_rows):
  """Of 19 rows, the last block of three has one."""
  logits, labels = arrays()
  found, gradient = value_and_grad(name, logits, labels, block_rows=block_rows)
  values, expected = in_torch(name, logits, labels)
  np.testing.assert_allclose(found.values, values, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(found.values[labels == 255], 0)
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found.valid, labels != 255)
  assert found.counted.all()
  # PyTorch's mean is over the valid pixels, that of mmsegmentation over all.
  total = values.sum()
  valid = (labels != 255).sum()
  assert found.mean('valid') == pytest.approx(total / valid, rel=1e-5)
  assert found.mean('all') == pytest.approx(total / labels.size, rel=1e-5)


@pytest.mark.parametrize('block_rows', [None, 3])
def test_logits_that_no_valid_pixel_sees(block_rows):
  """Zero gradient and no harm, though they are NaN."""
  logits, labels = arrays()
  labels[:, 12:] = 255
  labels[1] = 255
  clean = logits.copy()
  logits[:, 4:] = np.nan
  logits[1] = np.nan
  options = {'block_rows': block_rows}
  found, gradient = value_and_grad('maxsup', logits, labels, **options)
  expected, other = value_and_grad('maxsup', clean, labels, **options)
  np.testing.assert_array_equal(found.values, expected.values)
  np.testing.assert_array_equal(gradient[:, 4:], 0)
  np.testing.assert_array_equal(gradient[1], 0)
  np.testing.assert_array_equal(gradient, other)
  assert gradient[0, :4].all()


def test_all_ignored_is_zero():
  logits, labels = arrays()
  labels[:] = 255
  found, gradient = value_and_grad('ls', logits, labels, block_rows=None)
  np.testing.assert_array_equal(gradient, 0)
  assert found.mean('valid') == found.mean('all') == 0


def test_pixels_that_there_are_not():
  """Images that fill up a batch are in neither denominator."""
  logits, labels = arrays()
  real = np.array([True, False])
  found, _ = value_and_grad('ls', logits, labels, where=real, block_rows=None)
  whole, _ = value_and_grad('ls', logits, labels, block_rows=None)
  np.testing.assert_allclose(found.values[0], whole.values[0], rtol=1e-6)
  total, valid, counted = found.sums()
  assert total == pytest.approx(float(whole.values[0].sum()), rel=1e-5)
  assert (valid, counted) == (whole.valid[0].sum(), labels[0].size)


def test_every_so_many_th_pixel():
  logits, labels = arrays()
  whole, _ = value_and_grad('maxsup', logits, labels, block_rows=None)
  some, _ = value_and_grad(
    'maxsup', logits, labels, loss_stride=4, block_rows=2
  )
  values = whole.values[:, 2::4, 2::4]
  np.testing.assert_allclose(some.values, values, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(some.valid, whole.valid[:, 2::4, 2::4])
  assert some.valid.any()


def test_distributions_and_what_is_measured():
  """One-hot labels are class ids, and sums of blocks those of all pixels."""
  logits, labels = arrays()
  valid = labels != 255
  one_hot = np.eye(K, dtype=np.float32)[np.where(valid, labels, 0)]

  def measure(z, y, where):
    z = jnp.where(where[:, None], z, 0)
    return {'logits': z.sum(), 'count': where.sum(), 'shape': y.ndim}

  hard, soft = (
    value_and_grad(
      'ls', logits, y, where=valid, block_rows=rows, measure=measure
    )[0]
    for y, rows in ((labels, None), (one_hot, 4))
  )
  np.testing.assert_allclose(hard.values, soft.values, rtol=1e-5, atol=1e-5)
  assert hard.measured['count'] == soft.measured['count'] == valid.sum()
  assert (hard.measured['shape'], soft.measured['shape']) == (1, 2 * 5)
  np.testing.assert_allclose(
    hard.measured['logits'], soft.measured['logits'], rtol=1e-4
  )


def test_logits_never_stand_in_memory_whole():
  """Of 2 images of 512x512 with 150 classes: 315 MB, and 642 MB with losses.

  20 MB are the gradient.
  """
  B, H, K = 2, 512, 150
  logits = jax.ShapeDtypeStruct((B, H // 4, H // 4, K), jnp.float32)
  labels = jax.ShapeDtypeStruct((B, H, H), jnp.uint8)

  def temporary(**options):
    def loss(logits, labels):
      found = losses.pixel_loss(OBJECTIVES['ce'], logits, labels, **options)
      return found.mean('valid')

    program = jax.jit(jax.value_and_grad(loss)).lower(logits, labels).compile()
    return program.memory_analysis().temp_size_in_bytes

  assert temporary(block_rows=16) < 36e6


@pytest.mark.parametrize(
  ('objective', 'change', 'message'),
  [
    ('ce', {'logits': np.zeros((2, 4, K), 'f')}, r'expected \[B, h, w, K\]'),
    ('ce', {'labels': np.zeros((2, 8), int)}, r'(2, 8).*; expected \[B, H, W'),
    ('ce', {'labels': np.zeros((3, 8, 8), int)}, r'\[B, H, W\] for logits of'),
    ('ce', {'labels': np.zeros((2, 8, 8, 4), 'f')}, r'\[B, H, W, K\] for log'),
    ('ce', {'where': np.ones((2, 4), bool)}, r'expected \(2, 8, 8\) or \(2,'),
    ('ce', {'loss_stride': 0}, 'loss_stride is 0'),
    ('ce', {'loss_stride': 40}, 'loss_stride is 40; expected less'),
    ('distillation', {}, 'this objective needs teacher_logits'),
    ('ols', {}, 'this objective needs a state'),
    ('weighted', {}, 'this objective needs the whole batch'),
  ],
)
def test_refusals(objective, change, message):
  objective = {
    'ce': OBJECTIVES['ce'],
    'distillation': losses.distillation_objective(),
    'ols': losses.ols_objective(K, steps_per_epoch=3),
    'weighted': losses.with_class_weights(
      OBJECTIVES['ce'], np.ones(K), mean='weights'
    ),
  }[objective]
  given = {
    'logits': np.zeros((2, 4, 4, K), np.float32),
    'labels': np.zeros((2, 8, 8), np.uint8),
  }
  with pytest.raises((ValueError, UsageError), match=message):
    losses.pixel_loss(objective, **given | change)


def test_labels_out_of_range_are_seen():
  """Not clamped to some class: an id that is none has no finite loss."""
  logits, labels = arrays()
  labels[0, 3, 4] = K
  found, _ = value_and_grad('ls', logits, labels, block_rows=None)
  assert np.isnan(found.values[0, 3, 4])
  assert np.isfinite(np.delete(found.values[0].ravel(), 3 * 16 + 4)).all()
