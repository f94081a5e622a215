import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.mixing import Mixing, cut_box, mix
from maxsup_jax.training.parallel import AXIS, Devices

RNG = np.random.default_rng(0)
KEY = jax.random.key(3)
H, W = 9, 7
BOTH = {'mixup': 0.8, 'cutmix': 1.0}


def zeros_and_ones(pairs):
  """Pairs of a black image of class 0 and a white one of class 1."""
  images = np.zeros((2 * pairs, H, W, 1), np.float32)
  images[1::2] = 1
  return images, np.arange(2 * pairs) % 2


@functools.cache
def mixer(num_classes, **settings):
  """`mix`, compiled once for all tests."""
  return jax.jit(
    functools.partial(
      mix, num_classes=num_classes, **({'mode': 'pair'} | settings)
    )
  )


@functools.cache
def mixed_pairs(**settings):
  """2000 pairs of black and white, mixed."""
  images, labels = mixer(2, **settings)(KEY, *zeros_and_ones(2000))
  return np.asarray(images)[..., 0], np.asarray(labels)


def test_the_weights_of_cutmix_are_the_shares_of_the_pixels():
  """Counted; the small alpha keeps or takes nearly everything at times."""
  images, labels = mixed_pairs(cutmix=0.3)
  assert set(np.unique(images)) == {0, 1}
  white = images.sum((1, 2))
  # The same quotient, up to the last bit, and exact where nothing is mixed.
  share = np.float32((H * W - white[::2]) / (H * W))
  np.testing.assert_array_max_ulp(labels[::2, 0], share)
  np.testing.assert_array_equal(labels[::2, 0] == 1, white[::2] == 0)
  np.testing.assert_array_equal(labels[::2, 0] == 0, white[::2] == H * W)
  np.testing.assert_array_equal(white[1::2], H * W - white[::2])
  np.testing.assert_array_equal(labels[1::2], labels[::2, ::-1])
  np.testing.assert_allclose(labels.sum(-1), 1, rtol=0, atol=6e-8)
  assert len(set(white)) > 30
  assert {0, H * W} < set(white)


def test_the_whites_are_a_box_around_each_pixel_alike():
  images, _ = mixed_pairs(cutmix=0.3)
  for image in images[::2]:
    rows, columns = image.any(1).nonzero()[0], image.any(0).nonzero()[0]
    if len(rows):
      box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
      assert box.all()
  # Boxes of an odd side lie as far to the left as to the right.
  small = images[::2][images[::2].sum((1, 2)) == 1]
  ys, xs = small.nonzero()[1:]
  assert set(ys) == set(range(H))
  assert set(xs) == set(range(W))
  assert ys.mean() == pytest.approx((H - 1) / 2, abs=0.6)
  assert xs.mean() == pytest.approx((W - 1) / 2, abs=0.6)


boxes = jax.jit(
  jax.vmap(lambda y, x, kept: cut_box(kept, y, x, (H, W)), (0, 0, None))
)


@pytest.mark.parametrize('kept', [0.0, 1e-7, 0.25, 0.5, 0.99, 1 - 2**-24, 1.0])
def test_boxes_are_those_of_the_definition(kept):
  """At every centre, the borders among them, in float64."""
  y, x = (c.ravel() for c in np.mgrid[:H, :W])
  box, share = boxes(y, x, np.float32(kept))
  ratio = math.sqrt(1 - float(np.float32(kept)))
  h, w = int(H * ratio), int(W * ratio)
  for i in range(len(y)):
    inside = np.zeros((H, W), bool)
    for row in range(y[i] - h // 2, y[i] - h // 2 + h):
      for column in range(x[i] - w // 2, x[i] - w // 2 + w):
        if 0 <= row < H and 0 <= column < W:
          inside[row, column] = True
    top, bottom, left, right = (int(side[i]) for side in box)
    ours = np.zeros((H, W), bool)
    ours[top:bottom, left:right] = True
    np.testing.assert_array_equal(ours, inside)
    np.testing.assert_array_max_ulp(
      share[i], np.float32((~inside).sum() / (H * W))
    )


@pytest.mark.parametrize('alpha', [0.3, 3.0])
def test_mixup_is_the_definition_with_a_beta_share(alpha):
  images, labels = mixed_pairs(mixup=alpha)
  kept = labels[::2, 0]
  np.testing.assert_allclose(
    images[::2], np.broadcast_to(1 - kept[:, None, None], (2000, H, W))
  )
  np.testing.assert_allclose(images[1::2], 1 - images[::2], atol=1e-7)
  np.testing.assert_allclose(labels[1::2], labels[::2, ::-1], atol=1e-7)
  np.testing.assert_allclose(labels.sum(-1), 1, rtol=0, atol=6e-8)
  # Mean and variance of Beta(alpha, alpha), within four standard errors.
  variance = 1 / (4 * (2 * alpha + 1))
  assert kept.mean() == pytest.approx(0.5, abs=4 * (variance / 2000) ** 0.5)
  assert kept.var() == pytest.approx(variance, rel=0.15)


def test_probability_and_switch():
  """0.8 of the pairs are mixed, 0.25 of these by cutmix; all pairs differ."""
  images, labels = mixed_pairs(
    mixup=20.0, cutmix=1.0, probability=0.8, switch=0.25
  )
  kept = labels[::2, 0]
  exchanged = (images[::2] == 1).any((1, 2))
  blended = ((images[::2] > 0) & (images[::2] < 1)).any((1, 2))
  assert not (exchanged & blended).any()
  assert blended.mean() == pytest.approx(0.6, abs=0.045)
  # A few boxes are empty.
  assert 0.14 < exchanged.mean() < 0.24
  assert (kept[~exchanged & ~blended] == 1).all()
  assert len(set(kept[blended])) > 0.99 * blended.sum()
  # Shares of the alpha of mixup, not of that of cutmix.
  assert kept[blended].std() == pytest.approx((4 * 41) ** -0.5, rel=0.1)


def test_a_batch_has_one_draw():
  batches = 400
  keys = jax.random.split(KEY, batches)
  run = functools.partial(
    mix, num_classes=2, mixup=0.8, cutmix=1.0, probability=0.75, mode='batch'
  )
  images, labels = jax.jit(jax.vmap(run, (0, None, None)))(
    keys, *zeros_and_ones(3)
  )
  images, labels = np.asarray(images), np.asarray(labels)
  np.testing.assert_array_equal(images[:, ::2], images[:, :1].repeat(3, 1))
  np.testing.assert_array_equal(labels[:, ::2], labels[:, :1].repeat(3, 1))
  whites = images[:, 0, ..., 0]
  share = whites.mean((1, 2), dtype=np.float64)
  np.testing.assert_allclose(share, labels[:, 0, 1], atol=1e-6)
  blended = ((whites > 0) & (whites < 1)).any((1, 2))
  untouched = labels[:, 0, 0] == 1
  assert blended.mean() == pytest.approx(0.375, abs=0.1)
  assert untouched.mean() == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize(
  'settings', [{}, {'mixup': 0.8, 'cutmix': 1.0, 'probability': 0.0}]
)
@pytest.mark.parametrize('mode', ['batch', 'pair'])
def test_off_is_the_identity(settings, mode):
  images = RNG.normal(size=(6, H, W, 3)).astype(np.float32)
  mixed, labels = mix(KEY, images, np.arange(6), 6, mode=mode, **settings)
  np.testing.assert_array_equal(mixed, images)
  np.testing.assert_array_equal(labels, np.eye(6))


def test_pairs_that_are_not_mixed_stay_to_the_bit():
  """82 pixels: 82 times the rounded 1/82 is not 1."""
  images = RNG.normal(size=(32, 41, 2, 1)).astype(np.float32)
  run = mixer(32, probability=1e-9, **BOTH)
  mixed, labels = run(KEY, images, np.arange(32))
  np.testing.assert_array_equal(mixed, images)
  np.testing.assert_array_equal(labels, np.eye(32))


@pytest.mark.parametrize('mode', ['batch', 'pair'])
def test_four_devices_mix_as_one_does(mode):
  """To the bit."""
  batch = {
    'image': RNG.normal(size=(48, H, W, 3)).astype(np.float32),
    'label': np.arange(48) % 10,
  }

  def step(batch):
    key = jax.random.fold_in(jax.random.key(0), 8)
    return mix(key, *batch.values(), 10, mode=mode, axis_name=AXIS, **BOTH)

  one, four = (
    devices.gather(devices.map(step)(devices.shard(batch)))
    for devices in (Devices(jax.devices()[:n]) for n in (1, 4))
  )
  np.testing.assert_array_equal(one[0], four[0])
  np.testing.assert_array_equal(one[1], four[1])
  assert np.abs(one[0] - batch['image']).max() > 0.1
  # Pairs of other devices have other draws.
  weights = one[1].max(-1)[::2]
  assert len(set(weights)) == 1 if mode == 'batch' else len(set(weights)) > 18


def test_padding_does_not_leak():
  """Neither into a partner nor into its gradient, where it is not a number."""
  images = RNG.normal(size=(48, H, W, 1)).astype(np.float32)
  where = np.arange(48) % 4 != 3
  images[~where] = np.nan
  partners, others = np.arange(48) % 4 == 2, np.arange(48) % 4 < 2
  run = mixer(48, **BOTH)
  mixed, labels = run(KEY, images, np.arange(48), where=where)
  np.testing.assert_array_equal(mixed[partners], images[partners])
  np.testing.assert_array_equal(
    labels, np.where(others[:, None], labels, np.eye(48))
  )
  assert np.isfinite(mixed[where]).all()
  assert (labels[others].max(-1) < 1).sum() > 12
  full = run(KEY, images, np.arange(48), where=np.ones(48, bool))
  np.testing.assert_array_equal(full[0][others], mixed[others])
  np.testing.assert_array_equal(full[1][others], labels[others])
  gradient = jax.grad(
    lambda x: jnp.where(
      where[:, None, None, None],
      run(KEY, x, np.arange(48), where=where)[0],
      0,
    ).sum()
  )(images)
  np.testing.assert_array_equal(gradient[partners], 1)
  np.testing.assert_array_equal(gradient[~where], 0)


def test_gradients_are_mixed_back():
  """Mixing is linear and its own transpose: each pixel stays in its place."""
  images, cotangents = RNG.normal(size=(2, 48, H, W, 1)).astype(np.float32)
  run = mixer(48, **BOTH)

  def mixed(images):
    return run(KEY, images, np.arange(48), where=np.ones(48, bool))[0]

  _, transpose = jax.vjp(mixed, images)
  np.testing.assert_allclose(
    transpose(cotangents)[0], mixed(cotangents), atol=1e-6
  )


def test_integer_images_and_soft_labels():
  images, _ = zeros_and_ones(2)
  soft = np.float32([[0.9, 0.1], [0.3, 0.7], [1, 0], [0, 1]])
  run = mixer(2, mixup=1.0)
  mixed, weights = run(KEY, np.uint8(images * 200), soft)
  assert mixed.dtype == jnp.float32
  kept = 1 - float(mixed[0].mean()) / 200
  assert 0.01 < kept < 0.99
  np.testing.assert_allclose(mixed[1], 200 * kept, rtol=1e-5)
  np.testing.assert_allclose(
    weights[0], kept * soft[0] + (1 - kept) * soft[1], rtol=1e-5
  )


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'mixup': -0.1}, 'config.mixing.mixup is -0.1; expected at least 0'),
    ({'cutmix': math.inf}, 'config.mixing.cutmix is inf'),
    ({'probability': 1.5}, 'probability is 1.5; expected from 0 to 1'),
    ({'switch': -1}, 'switch is -1'),
    ({'mode': 'elem'}, "mode is 'elem'; expected one of batch, pair"),
  ],
)
def test_refuses(settings, message):
  with pytest.raises(UsageError, match=message):
    Mixing(**settings)


def test_refuses_an_odd_part_of_a_batch():
  with pytest.raises(UsageError, match='has 3 examples; expected an even'):
    mix(KEY, np.zeros((3, 4, 4, 1)), np.zeros(3, int), 2, mixup=1.0)
  mixing = Mixing(mixup=1.0)
  told = {'name': 'ce', 'num_classes': 3, 'batch_size': 12}
  mixing.check(losses.OBJECTIVES['ce'](), **told, device_count=2)
  with pytest.raises(UsageError, match='which is 3 on each of 4 devices'):
    mixing.check(losses.OBJECTIVES['ce'](), **told, device_count=4)
  Mixing().check(losses.OBJECTIVES['ce'](), **told, device_count=4)


def test_refuses_to_mix_an_image_with_itself():
  told = {'name': 'ce', 'num_classes': 3, 'batch_size': 12, 'device_count': 2}
  Mixing(mixup=1.0).check(losses.OBJECTIVES['ce'](), **told, repeats=6)
  with pytest.raises(UsageError, match='a batch of at least 14'):
    Mixing(mixup=1.0).check(losses.OBJECTIVES['ce'](), **told, repeats=7)
  Mixing().check(losses.OBJECTIVES['ce'](), **told, repeats=7)


SOFT = {
  'ce', 'ls', 'maxsup', 'logit_penalty', 'confidence_penalty', 'adaptive_ls',
  'logit_norm', 'mbls', 'acls', 'distillation', 'logit_matching',
}  # fmt: skip


@pytest.mark.parametrize('name', losses.OBJECTIVES)
def test_objectives_of_one_class_only_are_refused_before_training(name):
  objective = losses.make_objective(
    {'name': name},
    num_classes=10,
    steps_per_epoch=5,
    epochs=2,
    axis_name=AXIS,
  )
  check = functools.partial(
    Mixing(cutmix=1.0).check,
    objective,
    name=name,
    num_classes=10,
    batch_size=8,
    device_count=4,
  )
  if name in SOFT:
    check()
    return
  with pytest.raises(UsageError, match=f'the objective {name!r} does') as e:
    check()
  assert '\n' not in str(e.value)
