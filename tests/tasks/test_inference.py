"""Images in windows and at several scales, against mmseg's definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from maxsup_jax.data import resizing
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import inference

K = 3


def image(height=23, width=31, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, K), np.uint8)


def coarse(images):
  """A network of stride 2 that looks at neighbours: another one mirrored."""
  x = np.asarray(images, np.float32) / 64
  x = x[:, : x.shape[1] // 2 * 2 : 2, : x.shape[2] // 2 * 2 : 2]
  return jnp.asarray(x + 0.5 * np.roll(x, 1, 2))


def resized(logits, size):
  """Of `[h, w, K]`, by torch in float64."""
  tensor = torch.tensor(np.asarray(logits, np.float64)).permute(2, 0, 1)[None]
  out = torch.nn.functional.interpolate(tensor, size, mode='bilinear')
  return out[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize('size', [1, 7, 8, 9, 20, 31])
@pytest.mark.parametrize(('crop', 'stride'), [(8, 5), (8, 8), (7, 1)])
def test_windows_cover_every_pixel(size, crop, stride):
  starts = inference.window_starts(size, crop, stride)
  assert len(starts) == max(size - crop + stride - 1, 0) // stride + 1
  assert starts[0] == 0
  assert starts[-1] == max(size - crop, 0)
  covered = np.zeros(size, int)
  for start in starts:
    covered[start : start + crop] += 1
  assert covered.min() >= 1
  if size <= crop:
    assert len(starts) == 1


def test_slide_averages_what_windows_say():
  images = image()[None]
  crop, stride = 8, 5
  total, count = np.zeros((23, 31, K)), np.zeros((23, 31, 1))
  for top in (0, 5, 10, 15):
    for left in (0, 5, 10, 15, 20, 23):
      window = images[:, top : top + crop, left : left + crop]
      part = slice(top, top + crop), slice(left, left + crop)
      total[part] += resized(coarse(window)[0], (crop, crop))
      count[part] += 1
  found = inference.slide(coarse, images, crop, stride)
  np.testing.assert_allclose(found[0], total / count, rtol=1e-4, atol=1e-5)
  whole = inference.slide(coarse, images, 31, 10)
  np.testing.assert_allclose(
    whole[0], resized(coarse(images)[0], (23, 31)), rtol=1e-4, atol=1e-5
  )

  def constant(window):
    return jnp.full((1, 3, 3, K), jnp.arange(3.0))

  found = inference.slide(constant, images, crop, stride)
  np.testing.assert_allclose(found, np.broadcast_to([0.0, 1, 2], found.shape))


def test_sizes_of_the_two_protocols():
  """By the formulas of the two versions, for a 683x512 and a 400x1000 image."""
  for height, width in ((512, 683), (400, 1000)):
    for ratio in inference.RATIOS:
      rectangle = int(2048 * ratio), int(512 * ratio)
      (first,) = inference.view_sizes(height, width, ratios=[ratio])
      assert first == rectangle
      (second,) = inference.view_sizes(
        height, width, protocol='mmseg1', ratios=[ratio]
      )
      assert second == (int(width * ratio + 0.5), int(height * ratio + 0.5))
  seen = []

  def predict(images):
    seen.append(images.shape[1:3])
    return coarse(images)

  small = image(40, 100)
  options = {'ratios': (0.5, 1.0), 'flip': True, 'scale': (80, 24)}
  list(inference.passes(predict, small, **options))
  assert seen == 2 * [(12, 30)] + 2 * [(24, 60)]
  seen.clear()
  list(inference.passes(predict, small, **options, protocol='mmseg1'))
  assert seen == 2 * [(20, 50)] + 2 * [(40, 100)]


@pytest.mark.parametrize('rows', [1, 7, 64])
def test_classes_are_the_mean_softmax_of_all_passes(rows):
  """Softmax after the second resize; mirrored passes are turned back."""
  pixels = image()
  seen = list(
    inference.passes(
      coarse, pixels, ratios=(1.0, 1.5), scale=(40, 18), flip=True
    )
  )
  assert [p.mirrored for p in seen] == [False, True, False, True]
  total = np.zeros((23, 31, K))
  for long, short in ((40, 18), (60, 27)):
    view = resizing.resize_within(pixels, long, short)
    for step in (1, -1):
      logits = coarse(view[None, :, ::step])[0]
      logits = resized(resized(logits, view.shape[:2]), (23, 31))[:, ::step]
      total += np.asarray(jax.nn.softmax(logits)) / 4
  found, confidence = inference.classes(seen, (23, 31), rows=rows)
  assert found.dtype == np.uint8
  np.testing.assert_allclose(confidence, total.max(-1), rtol=1e-4)
  top = np.sort(total, -1)
  clear = top[..., -1] - top[..., -2] > 1e-4
  assert clear.mean() > 0.95
  np.testing.assert_array_equal(found[clear], total.argmax(-1)[clear])


def test_windows_that_see_all_say_what_the_whole_image_says():
  pixels = image()
  options = {'scale': (62, 46)}
  whole = list(inference.passes(coarse, pixels, **options))
  slid = list(inference.passes(coarse, pixels, **options, crop=62))
  for a, b in zip(
    inference.classes(whole, (23, 31)), inference.classes(slid, (23, 31))
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_a_large_map_never_stands():
  """512x683 pixels of 150 classes are 210 MB in float32; 32 rows are 13."""
  maps = [jnp.zeros((32, 43, 150))]
  down = [inference.resize_matrix(32, 512)[:32]]
  across = [inference.resize_matrix(43, 683)]
  compiled = inference._block_classes.lower(maps, down, across).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 45e6


def test_what_does_not_fit_is_refused():
  for call, message in (
    (lambda: inference.window_starts(9, 4, 5), 'stride is 5; .* from 1 to 4'),
    (
      lambda: inference.view_sizes(4, 4, protocol='mmseg'),
      "protocol is 'mmseg'; did you mean 'mmseg.'",
    ),
    (lambda: inference.view_sizes(4, 4, ratios=()), 'ratios is empty'),
    (lambda: inference.view_sizes(4, 4, ratios=(0,)), 'ratios is 0; expected'),
    (lambda: inference.classes([], (4, 4)), 'there are no passes'),
  ):
    with pytest.raises(UsageError, match=message):
      call()
