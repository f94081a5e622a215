import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from maxsup_jax.diagnostics.gradcam import (
  class_gradients,
  gradcam,
  tokens_to_map,
  upsample,
)
from maxsup_jax.errors import UsageError


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def added(head, activations):
  """The rest of a network, as a function of what is added at the layer."""
  return lambda delta: (head(activations + delta), activations + delta)


def test_is_cam_for_pooling_and_a_linear_head():
  activations = jax.nn.relu(normal(4, 3, 5, 6))
  kernel, bias = normal(6, 7, seed=1), normal(7, seed=2)
  head = lambda a: a.mean((1, 2)) @ kernel + bias  # noqa: E731
  classes = np.array([0, 6, 3, 3])
  result = class_gradients(added(head, activations), classes)
  maps = gradcam(result.activations, result.gradients)
  for i, y in enumerate(classes):
    cam = np.tensordot(activations[i], kernel[:, y], 1)
    assert_allclose(maps[i], np.maximum(cam, 0) / 15, rtol=1e-4, atol=1e-6)
  # Without the clipping the map adds up to the logit, but for the bias.
  total = np.einsum(
    'bhwc,bc->b', result.activations, result.gradients.mean((1, 2))
  )
  picked = result.logits[jnp.arange(4), classes]
  assert_allclose(total, picked - bias[classes], rtol=1e-4)


def test_gradients_are_numerical_derivatives(x64):
  activations = np.float64(normal(2, 2, 3, 4))
  kernel = np.float64(normal(24, 5, seed=1)) / 5
  head = jax.jit(lambda a: jnp.tanh(a.reshape(2, -1) @ kernel) ** 3)
  forward = added(head, activations)
  result = class_gradients(forward)
  assert result.classes.tolist() == head(activations).argmax(-1).tolist()
  for index in ((0, 0, 0, 0), (1, 1, 0, 2)):
    y = result.classes[index[0]]
    bump = np.zeros(activations.shape)
    bump[index] = 1e-6
    up, down = (forward(s * bump)[0][index[0], y] for s in (1, -1))
    slope = (up - down) / 2e-6
    assert_allclose(result.gradients[index], slope, rtol=1e-6, atol=1e-9)
  assert gradcam(activations, result.gradients).dtype == jnp.float64


def test_classes_are_the_predicted_ones_unless_given():
  activations, kernel = normal(3, 2, 2, 6), normal(6, 4, seed=1)
  head = lambda a: a.mean((1, 2)) @ kernel  # noqa: E731
  forward = added(head, activations)
  predicted = class_gradients(forward)
  assert predicted.classes.tolist() == head(activations).argmax(-1).tolist()
  for classes in (2, jnp.array([2, 2, 2]), np.uint8(2)):
    result = class_gradients(forward, classes)
    assert result.classes.tolist() == [2, 2, 2]
    assert_allclose(
      result.gradients, np.broadcast_to(kernel[:, 2] / 4, (3, 2, 2, 6))
    )
  compiled = jax.jit(lambda c: class_gradients(forward, c).gradients)
  assert_array_equal(compiled(2), result.gradients)


def test_tokens_are_rows_of_patches_after_the_class_token():
  tokens = np.arange(2 * 7 * 3).reshape(2, 7, 3)
  maps = tokens_to_map(tokens, grid=(2, 3))
  for i in range(2):
    for j in range(3):
      assert_array_equal(maps[:, i, j], tokens[:, 1 + 3 * i + j])
  assert_array_equal(
    tokens_to_map(tokens[:, 1:5], drop_cls=False),
    tokens[:, 1:5].reshape(2, 2, 2, 3),
  )


def test_upsampling_as_torch_does():
  torch = pytest.importorskip('torch')
  maps = normal(2, 4, 3)
  expected = torch.nn.functional.interpolate(
    torch.from_numpy(maps)[:, None], (9, 14), mode='bilinear'
  )
  assert_allclose(upsample(maps, (9, 14)), expected[:, 0], atol=1e-6)


def test_what_is_refused():
  tokens, h = tokens_to_map, normal(2, 3, 4, 5)
  for call, message in (
    (lambda: gradcam(h[0], h[0]), r'\(3, 4, 5\)'),
    (lambda: gradcam(h, h[..., :1]), 'gradients'),
    (lambda: tokens(normal(2, 9, 4)), '8 patch tokens'),
    (lambda: tokens(normal(2, 7, 4), grid=(2, 2)), 'a grid of 2x2'),
    (lambda: tokens(normal(2, 2, 2, 4)), r'\[B, T, C\]'),
    (lambda: tokens(normal(2, 5, 4), grid=(-2, -2)), 'grid is -2'),
    (lambda: class_gradients(_forward, [0, 1, 2]), r'shape \(3,\)'),
    (lambda: class_gradients(_forward, [0.0, 1.0]), 'dtype float32'),
    (lambda: class_gradients(_forward, [0, 6]), r'classes\[1\] is 6'),
    (lambda: class_gradients(_one_logit), r'logits of the shape \(2,\)'),
    (lambda: upsample(normal(2, 4, 3), (4, 2)), 'size is 4x2; .* 4x3'),
    (lambda: upsample(normal(4, 3), (8, 8)), r'maps has the shape \(4, 3\)'),
    (lambda: upsample(normal(2, 4, 3), 8), 'size is 8'),
  ):
    with pytest.raises(UsageError, match=message):
      call()


def _one_logit(delta):
  activations = jnp.ones((2, 2, 2, 6)) + delta
  return activations.mean((1, 2, 3)), activations


def _forward(delta):
  activations = jnp.ones((2, 2, 2, 6)) + delta
  return activations.mean((1, 2)), activations


def test_what_is_not_finite_is_no_absence_of_evidence():
  good, compiled = normal(2, 3, 3, 4), jax.jit(gradcam)
  for value in (np.nan, np.inf, -np.inf):
    bad = good.copy()
    bad[0, 1, 1, 2] = value
    for activations, gradients, name in (
      (bad, good, 'activations'),
      (good, bad, 'gradients'),
    ):
      with pytest.raises(UsageError, match=f'{name} are not all finite'):
        gradcam(activations, gradients)
      maps = compiled(activations, gradients)
      # No map of zeros; the other map does not suffer.
      assert np.isnan(maps[0]).any()
      assert np.isfinite(maps[1]).all()
  huge = np.full((1, 2, 2, 3), 1e30, np.float32)
  with pytest.raises(UsageError, match=r'products .* are not all finite'):
    gradcam(huge, huge)
