"""The convolution of all nets: XLA's, with another kernel gradient on CPUs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from maxsup_jax.models import MODELS, convolution, create_model
from maxsup_jax.models.convolution import convolve, native_convolutions

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# Height, width, channels in and out, kernel, stride, padding.
SHAPES = (
  (9, 7, 3, 5, 3, 1, 1),
  (9, 8, 4, 6, 3, 2, 1),
  (8, 8, 5, 7, 1, 1, 0),
  (9, 9, 5, 7, 1, 2, 0),
  (17, 15, 3, 8, 7, 2, 3),
  (50, 41, 3, 4, 1, 1, 0),
  (6, 5, 130, 3, 3, 1, 1),
  (10, 10, 3, 4, 5, 1, 0),
  (10, 9, 3, 4, 2, 2, 1),
)


def arrays(shape, count=2, dtype=jnp.float32):
  H, W, C, F, size, stride, padding = shape
  rng = np.random.default_rng(0)
  x = rng.normal(size=(count, H, W, C))
  kernel = rng.normal(size=(size, size, C, F))
  h, w = ((n + 2 * padding - size) // stride + 1 for n in (H, W))
  g = rng.normal(size=(count, h, w, F))
  return tuple(jnp.asarray(a, dtype) for a in (x, kernel, g))


def value(conv, shape, x, kernel, g):
  stride, padding = shape[5:7]
  out = conv(
    x,
    kernel,
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=lax.conv_dimension_numbers(x.shape, kernel.shape, LAYOUT),
  )
  return (jnp.sin(out) * g).sum(dtype=jnp.float32)


def gradients(conv, shapes=SHAPES):
  """Of all shapes, in one program."""

  def all_of(inputs):
    return [
      jax.value_and_grad(value, (2, 3))(conv, shape, *given)
      for shape, given in zip(shapes, inputs, strict=True)
    ]

  return all_of


def assert_close(found, expected, tolerance):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    assert a.dtype == b.dtype
    a, b = (np.asarray(v, np.float64) for v in (a, b))
    np.testing.assert_allclose(a, b, atol=tolerance * max(abs(b).max(), 1))


@pytest.mark.parametrize(
  ('dtype', 'tolerance'),
  [
    (jnp.float32, 2e-6),
    pytest.param(jnp.bfloat16, 1e-2, marks=pytest.mark.slow),
  ],
)
def test_gradients_are_those_of_autodiff(dtype, tolerance):
  inputs = [arrays(shape, dtype=dtype) for shape in SHAPES]
  found, expected = (
    jax.jit(gradients(conv))(inputs)
    for conv in (convolve, lax.conv_general_dilated)
  )
  assert_close(found, expected, tolerance)


def test_also_in_batches_and_of_second_order():
  shape = SHAPES[1]
  x, kernel, g = arrays(shape)
  of_kernel = jax.grad(value, 3)

  def product(conv):  # Forward over reverse.
    return jax.jvp(
      lambda k: of_kernel(conv, shape, x, k, g), (kernel,), (kernel,)
    )[1]

  def reverse(conv):
    return jax.grad(lambda k: (of_kernel(conv, shape, x, k, g) ** 2).sum())(
      kernel
    )

  def mapped(conv):
    return jax.vmap(lambda *a: of_kernel(conv, shape, *a))(
      jnp.stack([x, -x]), jnp.stack([kernel, 2 * kernel]), jnp.stack([g, g])
    )

  for function in (product, reverse, mapped):
    found, expected = map(function, (convolve, lax.conv_general_dilated))
    assert_close(found, expected, 1e-5)


def test_forward_mode_has_a_way_around():
  shape = SHAPES[0]
  x, kernel, g = arrays(shape)

  def tangent():
    return jax.jvp(
      lambda k: value(convolve, shape, x, k, g), (kernel,), (kernel,)
    )[1]

  with pytest.raises(TypeError, match='forward-mode'):
    tangent()
  with native_convolutions():
    found = tangent()
  gradient = jax.grad(value, 3)(convolve, shape, x, kernel, g)
  assert found == pytest.approx(float((gradient * kernel).sum()), rel=1e-5)


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
def test_other_platforms_compile_xlas_own(platform):
  """Convolutions and products are the same, in the same order."""
  inputs = [arrays(shape) for shape in SHAPES]

  def operations(conv):
    traced = jax.jit(gradients(conv)).trace(inputs)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    found = re.findall(r'stablehlo\.(?:convolution|dot_general).*', text)
    # But for the names of values.
    return [re.sub(r'%\w+', '', line) for line in found]

  found, expected = map(operations, (convolve, lax.conv_general_dilated))
  assert len(expected) == 3 * len(SHAPES)
  assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_every_convolution_of_every_model(name, monkeypatch):
  """At its own channels and maps, ImageNet's at 64 pixels."""
  if name.startswith('vit'):
    pytest.skip('its one convolution is of patches, which do not overlap')
  seen, native = {}, lax.conv_general_dilated

  def spy(x, kernel, window_strides, padding, **options):
    if options.get('feature_group_count', 1) == 1:
      key = x.shape[1:], kernel.shape, tuple(window_strides), str(padding)
      seen[key] = padding
    return native(x, kernel, window_strides, padding, **options)

  side = 64 if MODELS[name].options.get('stem') == 'imagenet' else 32
  side = 75 if name == 'inception_v4' else side
  with native_convolutions(), monkeypatch.context() as patch:
    patch.setattr(convolution.lax, 'conv_general_dilated', spy)
    model = create_model(name, 10)
    jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, side, side, 3)))
  assert seen
  rng = np.random.default_rng(0)
  for (image, kernel, strides, _), padding in seen.items():
    x, k = (jnp.float32(rng.normal(size=s)) for s in ((2, *image), kernel))

    def of_kernel(conv, x=x, k=k, strides=strides, padding=padding):
      numbers = lax.conv_dimension_numbers(x.shape, k.shape, LAYOUT)
      return jax.jit(
        jax.grad(
          lambda k: jnp.sin(
            conv(x, k, strides, padding, dimension_numbers=numbers)
          ).sum()
        )
      )(k)

    assert_close(of_kernel(convolve), of_kernel(native), 1e-5)
