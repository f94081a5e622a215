"""The perceptron of tables, and its single logit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from maxsup_jax import losses
from maxsup_jax.errors import UsageError
from maxsup_jax.models import count_parameters, create_model


def init(model, features):
  return jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, features))
  )['params']


def test_parameter_counts_are_those_of_the_paper():
  model = create_model('mlp', 2, single_logit=True)
  # Of Bank Marketing and Online Shoppers.
  for features, count in ((62, 46_625), (28, 9_633)):
    assert count_parameters(init(model, features)) == count
  assert 'head' not in init(model, 28)
  two = init(create_model('mlp', 2), 28)
  assert count_parameters(two) == 9_633 + 57
  assert two['head']['kernel'].shape == (56, 2)


def test_a_single_logit_is_the_binary_classifier_of_torch():
  model = create_model('mlp', 2, single_logit=True)
  rng, y = np.random.default_rng(0), np.arange(6) % 2
  x = rng.normal(size=(6, 5))
  variables = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32),
    {'params': init(model, 5)},
  )

  def loss(variables):
    logits, _ = model.apply(variables, jnp.asarray(x, jnp.float32))
    values = losses.label_smoothing_cross_entropy(logits, jnp.asarray(y), 0.4)
    return values.mean(), logits

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (value, logits), grads = step(variables)
  layers = []
  for name in ('dense0', 'dense1', 'logit'):
    found = variables['params'][name]
    layer = torch.nn.Linear(*found['kernel'].shape, dtype=torch.float64)
    layer.weight.data = torch.tensor(np.array(found['kernel'].T, float))
    layer.bias.data = torch.tensor(np.array(found['bias'], float))
    layers += [layer, torch.nn.ReLU()]
  z = torch.nn.Sequential(*layers[:-1])(torch.tensor(x))[:, 0]
  targets = torch.tensor(y * (1 - 0.4) + 0.4 / 2)
  expected = torch.nn.functional.binary_cross_entropy_with_logits(z, targets)
  expected.backward()
  np.testing.assert_allclose(logits[:, 0], 0)
  np.testing.assert_allclose(logits[:, 1], z.detach(), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
  for name, layer in zip(('dense0', 'dense1', 'logit'), layers[::2]):
    np.testing.assert_allclose(
      grads['params'][name]['kernel'].T, layer.weight.grad, rtol=1e-3, atol=1e-6
    )


def test_the_penalty_of_one_logit_has_a_kink_at_zero():
  """Why MaxSup of strength 0.6 learns nothing in docs/own.md."""
  z = np.array([-2.0, -0.1, 0.1, 3.0])
  logits = jnp.stack([jnp.zeros(4), jnp.asarray(z, jnp.float32)], -1)

  def loss(logits):
    return losses.maxsup_cross_entropy(logits, jnp.ones(4, int), 0.6).sum()

  slope = jax.jit(jax.grad(loss))(logits)[:, 1]
  expected = 1 / (1 + np.exp(-z)) - 1 + 0.3 * np.sign(z)
  np.testing.assert_allclose(slope, expected, rtol=1e-5)


def test_what_it_cannot_classify_is_refused():
  with pytest.raises(UsageError, match='expected False for 3 classes'):
    init(create_model('mlp', 3, single_logit=True), 4)
  model = create_model('mlp', 3)
  with pytest.raises(UsageError, match=r'int32 \[1, 4\]; expected floating'):
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
