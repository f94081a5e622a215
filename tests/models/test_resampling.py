"""Maps in another resolution, against PyTorch."""

import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models import resampling

torch = pytest.importorskip('torch')


def maps(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def in_torch(call, x, *args, **kwargs):
  """Applies a function of torch to [B, H, W, C]."""
  x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
  return call(x, *args, **kwargs).numpy().transpose(0, 2, 3, 1)


def interpolate(x, **kwargs):
  call = torch.nn.functional.interpolate
  return in_torch(call, x, align_corners=False, **kwargs)


@pytest.mark.parametrize('size', [(24, 20), (3, 2), (7, 9), (1, 1), (6, 5)])
def test_bilinear(size):
  x = maps(2, 6, 5, 3)
  found = resampling.resize_bilinear(x, size)
  expected = interpolate(x, size=size, mode='bilinear')
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('factor', [4, 2, 1, 0.5])
def test_bilinear_by_a_factor(factor):
  """Where 17 becomes 8, the factor and the sizes say two different things."""
  x = maps(2, 17, 8, 3)
  found = resampling.rescale_bilinear(x, factor)
  expected = interpolate(x, scale_factor=factor, mode='bilinear')
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('size', [(16, 16), (17, 43)])
@pytest.mark.parametrize('side', [1, 2, 3, 6])
def test_average_pool(size, side):
  x = maps(2, *size, 3)
  found = resampling.average_pool(x, side)
  expected = in_torch(torch.nn.functional.adaptive_avg_pool2d, x, side)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize('grid', [(32, 32), (17, 43), (5, 3), (14, 14)])
@pytest.mark.parametrize('method', ['bicubic', 'antialias'])
def test_positions(grid, method):
  given = maps(1, 1 + 14 * 14, 3)
  found = np.asarray(resampling.resize_positions(given, grid, method))
  expected = interpolate(
    given[:, 1:].reshape(1, 14, 14, 3),
    size=grid,
    mode='bicubic',
    antialias=method == 'antialias',
  )
  np.testing.assert_array_equal(found[:, 0], given[:, 0])
  np.testing.assert_allclose(found[0, 1:], expected.reshape(-1, 3), atol=5e-6)
  if grid == (14, 14):
    np.testing.assert_array_equal(found, given)


def test_refusals():
  with pytest.raises(UsageError, match="method is 'cubic'; did you mean 'bi"):
    resampling.resize_positions(jnp.ones((1, 5, 3)), (3, 3), 'cubic')
  with pytest.raises(UsageError, match='learned for 6 patches; expected a squ'):
    resampling.resize_positions(jnp.ones((1, 7, 3)), (3, 3))
