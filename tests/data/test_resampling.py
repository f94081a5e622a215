import sys
import types

import numpy as np
import pytest
from PIL import Image

from maxsup_jax.data import _optional, _resampling, resizing


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def _by_pillow(image, height, width, interpolation):
  with _optional.without('numba'):
    return resizing.resize_exact(image, height, width, interpolation)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('channels', [1, 3])
def test_the_pixels_are_pillows(interpolation, channels, rng):
  assert _resampling.usable() is not None
  columns_first = 0
  for number in range(150):
    H, W, height, width = rng.integers(1, 200, 4).tolist()
    if number % 5 == 0:
      height = H
    if number % 7 == 0:
      width = W
    image = rng.integers(0, 256, (H, W, channels), np.uint8)
    if number % 3 == 0:
      image = image // 128 * 255  # The cubic leaves the range of bytes.
    image.flags.writeable = number % 2 == 0  # Decoded images are not.
    out = _resampling.resize(image, height, width, interpolation)
    np.testing.assert_array_equal(
      out, _by_pillow(image, height, width, interpolation)
    )
    columns_first += height < H and H - height > 2 * (W - width)
  assert 20 < columns_first < 130


def test_of_windows(rng):
  """Rows that do not follow each other in memory."""
  image = rng.integers(0, 256, (120, 150, 3), np.uint8)
  for window in (image[10:110, 20:90], image[::-1, ::2], image[:, :, ::-1]):
    for shape in ((40, 30), (224, 224), (20, 140)):
      np.testing.assert_array_equal(
        _resampling.resize(window, *shape, 'bilinear'),
        _by_pillow(window, *shape, 'bilinear'),
      )


def test_another_pillow_is_believed(monkeypatch, rng):
  """Older ones go along the rows first, always."""
  image = rng.integers(0, 256, (90, 60, 3), np.uint8)

  def rows_first(self, size, resample):
    shape = (size[0], self.size[1])
    image = original(self, shape, resample)
    return original(image, size, resample)

  original = Image.Image.resize
  monkeypatch.setattr(Image.Image, 'resize', rows_first)
  _resampling._checked_kernels.cache_clear()
  try:
    assert _resampling.resize(image, 40, 60, 'bilinear') is None
    expected = Image.fromarray(image).resize(
      (50, 40), Image.Resampling.BILINEAR
    )
    np.testing.assert_array_equal(
      resizing.resize_exact(image, 40, 50), expected
    )
  finally:
    _resampling._checked_kernels.cache_clear()


def test_where_nothing_can_be_cached(monkeypatch):
  calls, numba = [], _optional.numba()

  def njit(signature, *, nogil, cache=False):
    calls.append(cache)
    if cache:
      raise RuntimeError('no locator available')
    return lambda function: function

  kernels = _resampling._compiled(
    types.SimpleNamespace(njit=njit, types=numba.types)
  )
  assert calls == [True, False] * 2
  assert isinstance(kernels, types.SimpleNamespace)


def test_packages_are_optional(monkeypatch):
  for name in ('numba', 'simplejpeg', 'google_crc32c'):
    monkeypatch.setitem(sys.modules, name, None)
  _optional._import.cache_clear()
  try:
    assert _optional.numba() is None
    assert _optional.simplejpeg() is None
    assert _optional.crc32c() is None
  finally:
    _optional._import.cache_clear()


def test_a_broken_package_is_said_once_and_done_without(monkeypatch, tmp_path):
  code = "raise ImportError('Numba needs NumPy 2.4 or less.\\nGot 2.9')"
  (tmp_path / 'numba.py').write_text(f'{code}\n')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, 'numba', raising=False)
  _optional._import.cache_clear()
  try:
    with pytest.warns(UserWarning, match=r'less. Got 2.9\): images are scaled'):
      assert _optional.numba() is None
    # Another warning would be an error.
    assert resizing.resize(np.zeros((9, 9, 3), np.uint8), 4).shape == (4, 4, 3)
  finally:
    _optional._import.cache_clear()
