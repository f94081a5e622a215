import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.causal_norm import CausalNormHead


def normal(*shape, seed=1):
  return np.array(jax.random.normal(jax.random.key(seed), shape))


def variables_of(kernel, direction):
  return {
    'params': {'kernel': kernel},
    'batch_stats': {'direction': direction},
  }


def evaluate(head, variables, x):
  return jax.jit(head.apply)(variables, x)


def train(head, variables, x):
  def step(variables, x):
    return head.apply(variables, x, train=True, mutable=['batch_stats'])

  return jax.jit(step)(variables, x)


def reference(x, kernel, direction, heads, train, tau=16, gamma=1 / 32):
  """The definition, one example, head and class at a time, in float64."""
  x, kernel, direction = (a.astype(np.float64) for a in (x, kernel, direction))
  D, K = kernel.shape
  logits = np.zeros((len(x), K))
  for part in np.split(np.arange(D), heads):
    c = direction[part] / np.linalg.norm(direction[part])
    for b in range(len(x)):
      unit = x[b, part] / np.linalg.norm(x[b, part])
      if not train:
        unit = unit - (unit @ c) * c
      for k in range(K):
        w = kernel[part, k]
        w = w / (np.linalg.norm(w) + gamma)
        logits[b, k] += tau / heads * unit @ w
  return logits


@pytest.mark.parametrize(('heads', 'training'), [(2, True), (3, False)])
def test_definition(heads, training):
  x, kernel, c = normal(4, 12), 0.1 * normal(12, 5, seed=2), normal(12, seed=3)
  head = CausalNormHead(5, heads=heads)
  variables = variables_of(kernel, c)
  if training:
    logits, updates = train(head, variables, x)
    np.testing.assert_allclose(
      updates['batch_stats']['direction'],
      0.9 * c + x.mean(0),
      rtol=1e-5,
      atol=1e-6,
    )
  else:
    logits = evaluate(head, variables, x)
  expected = reference(x, kernel, c, heads, training)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_nothing_is_subtracted_before_the_first_update():
  x = normal(4, 8)
  head = CausalNormHead(3)
  kernel = normal(8, 3, seed=2)
  init = jax.eval_shape(head.init, jax.random.key(0), x)
  assert init['batch_stats']['direction'].shape == (8,)
  variables = variables_of(kernel, np.zeros(8, np.float32))
  logits = evaluate(head, variables, x)
  trained, _ = train(head, variables, x)
  np.testing.assert_allclose(logits, trained, rtol=1e-6)
  # Half of a direction is half of a subtraction.
  half = np.concatenate([x[0, :4], np.zeros(4, np.float32)])
  variables = variables_of(kernel, half)
  logits = evaluate(head, variables, x[:1])
  other = evaluate(head, variables, x[:1] * np.where(half == 0, 1, 7))
  assert jnp.isfinite(logits).all()
  np.testing.assert_allclose(logits, other, atol=1e-5)


def test_zero_features_give_zero_logits_and_finite_gradients():
  kernel = jnp.zeros((8, 3)).at[:, 0].set(1)
  variables = variables_of(kernel, jnp.zeros(8))
  head = CausalNormHead(3)

  def total(kernel, x):
    logits, _ = head.apply(
      variables | {'params': {'kernel': kernel}},
      x,
      train=True,
      mutable=['batch_stats'],
    )
    return logits.sum(), logits

  grad = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
  gradients, logits = grad(kernel, jnp.zeros((2, 8)))
  np.testing.assert_array_equal(logits, 0)
  for gradient in gradients:
    assert jnp.isfinite(gradient).all()


def test_the_direction_has_no_gradient():
  x, kernel = normal(2, 8), normal(8, 3, seed=2)
  variables = variables_of(kernel, jnp.zeros(8))

  def direction(x):
    _, updates = CausalNormHead(3).apply(
      variables, x, train=True, mutable=['batch_stats']
    )
    return updates['batch_stats']['direction'].sum()

  np.testing.assert_array_equal(jax.jit(jax.grad(direction))(x), 0)


def test_the_product_is_not_rounded(equations):
  x = jax.ShapeDtypeStruct((2, 8), jnp.float32)
  variables = jax.eval_shape(CausalNormHead(3).init, jax.random.key(0), x)
  traced = equations(CausalNormHead(3).apply, variables, x)
  (product,) = [e for e in traced if e.primitive.name == 'dot_general']
  assert product.params['precision'] == (jax.lax.Precision.HIGHEST,) * 2


def test_heads_divide_the_features():
  with pytest.raises(UsageError, match='heads is 2; expected a divisor of 7'):
    CausalNormHead(3).init(jax.random.key(0), normal(1, 7))
