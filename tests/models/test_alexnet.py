import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.alexnet import AlexNetCifar, LocalResponseNorm
from tests.models.torch_reference import compare


def normal(*shape, seed=1):
  return jax.random.normal(jax.random.key(seed), shape)


def lrn(x, alpha=0.001 / 9):
  """x / (1 + a Σ_{-4..4} x²)^0.75 along axis 1, one channel at a time."""
  y = np.zeros_like(x, dtype=np.float64)
  for c in range(x.shape[1]):
    window = x[:, max(0, c - 4) : c + 5].astype(np.float64)
    y[:, c] = x[:, c] / (1 + alpha * (window**2).sum(1)) ** 0.75
  return y


def torch_alexnet(net, x):
  torch, relu = net.torch, net.torch.relu

  def pool(x):
    # TensorFlow pads an odd row or column at the end.
    pads = [1 if x.shape[i] % 2 == 0 else 2 for i in (3, 2)]
    before = [p // 2 for p in pads]
    pad = (before[0], pads[0] - before[0], before[1], pads[1] - before[1])
    x = net.functional.pad(x, pad, value=-float('inf'))
    return net.functional.max_pool2d(x, 3, 2)

  def norm(x):
    return torch.from_numpy(lrn(x.numpy()).astype('float32'))

  x = relu(net.conv(x, 'conv1', bias=True))
  x = relu(net.conv(norm(pool(x)), 'conv2', bias=True))
  x = feature_map = pool(norm(x))
  x = x.permute(0, 2, 3, 1).flatten(1)
  x = relu(net.dense(relu(net.dense(x, 'local3')), 'local4'))
  return net.dense(x, 'head'), feature_map


def test_same_as_torch(random_variables):
  model, images = AlexNetCifar(5), normal(2, 15, 10, 3)
  variables = random_variables(model, images)
  # The normalisation must show: it divides by 1.0 for small activations.
  for name in ('conv1', 'conv2'):
    variables['params'][name]['kernel'] *= 10
  logits, out, _ = compare(
    model, variables, images, torch_alexnet, train=False, atol=1e-3
  )
  head = variables['params']['head']
  assert out['penultimate'].min() == 0
  np.testing.assert_allclose(
    out['penultimate'] @ head['kernel'] + head['bias'], logits, rtol=1e-4
  )


def test_initial_values():
  params = jax.jit(AlexNetCifar(10).init)(
    jax.random.key(0), normal(1, 8, 8, 3)
  )['params']
  # Of a normal that is cut at ±2 standard deviations.
  cut = 0.87962566
  for name, stddev, bias in (
    ('conv1', 0.05, 0.0),
    ('conv2', 0.05, 0.1),
    ('local3', 0.04, 0.1),
    ('local4', 0.04, 0.1),
    ('head', 1 / 192, 0.0),
  ):
    kernel = np.asarray(params[name]['kernel'])
    assert kernel.std() == pytest.approx(cut * stddev, rel=0.05), name
    assert abs(kernel).max() <= 2.0001 * stddev
    np.testing.assert_allclose(params[name]['bias'], bias)


def test_normalisation_by_definition():
  x = 30 * normal(2, 3, 3, 20)
  y = LocalResponseNorm().apply({}, x)
  expected = lrn(np.array(x).transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
  assert abs(y / x).min() < 0.8
  np.testing.assert_allclose(y, expected, rtol=1e-5)


def test_the_image_size_is_fixed():
  model = AlexNetCifar(5)
  images = jax.ShapeDtypeStruct((2, 24, 24, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  larger = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  with pytest.raises(UsageError, match=r'give 4096 values .* learned 2304'):
    jax.eval_shape(model.apply, variables, larger)
