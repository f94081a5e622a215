"""The LSTM of texts, beside torch's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from maxsup_jax.errors import UsageError
from maxsup_jax.models import (
  Dropout,
  count_parameters,
  create_model,
  parameter_kinds,
)

IDS = np.array([[3, 5, 4, 0, 0], [6, 3, 3, 5, 7], [4, 0, 0, 0, 0]], np.int32)


def small(**options):
  sizes = {'vocabulary_size': 8, 'dim': 6, 'hidden': 5, 'widths': (7, 4)}
  return create_model('lstm', 3, **{**sizes, **options})


def shapes(model, ids=IDS):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(ids))[
    'params'
  ]


def test_the_parameters_are_those_of_the_paper():
  model = create_model('lstm', 2, vocabulary_size=1000, single_logit=True)
  found = shapes(model)
  lstm = torch.nn.LSTM(300, 256)
  assert count_parameters({n: found[n] for n in ('input', 'lstm')}) == sum(
    p.numel() for p in lstm.parameters()
  )
  assert count_parameters(found) == 300 * 1000 + 571_392 + 98_817
  kinds = parameter_kinds(
    small(), (jax.ShapeDtypeStruct(IDS.shape, IDS.dtype),)
  )
  assert kinds['embedding']['embedding'] == 'embedding'
  assert kinds['lstm']['recurrent'] == {'kernel': 'kernel', 'bias': 'bias'}


def test_logits_and_gradients_are_those_of_torch():
  """Which sees no padding, and so shows that it has no effect."""
  model = small()
  rng = np.random.default_rng(0)
  variables = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32),
    {'params': shapes(model)},
  )

  def loss(variables, ids):
    logits, _ = model.apply(variables, ids)
    return (logits * jnp.cos(jnp.arange(9.0)).reshape(3, 3)).sum(), logits

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (_, logits), grads = step(variables, IDS)

  def tensor(*path):
    found = variables['params']
    for name in path:
      found = found[name]
    return torch.tensor(np.array(found, np.float64), requires_grad=True)

  table = tensor('embedding', 'embedding')
  lstm = torch.nn.LSTM(6, 5, batch_first=True, dtype=torch.float64)
  # Gates in the same order: i, f, g, o.
  pairs = {
    ('input', 'kernel'): lstm.weight_ih_l0,
    ('input', 'bias'): lstm.bias_ih_l0,
    ('lstm', 'recurrent', 'kernel'): lstm.weight_hh_l0,
    ('lstm', 'recurrent', 'bias'): lstm.bias_hh_l0,
  }
  for path, weight in pairs.items():
    weight.data = tensor(*path).detach().t()
  lengths = torch.tensor((IDS != 0).sum(1))
  packed = torch.nn.utils.rnn.pack_padded_sequence(
    table[torch.tensor(IDS.astype(np.int64))], lengths, True, False
  )
  x = lstm(packed)[1][0][0]
  layers = {}
  for name in ('dense0', 'dense1', 'head'):
    layers[name] = tensor(name, 'kernel'), tensor(name, 'bias')
    x = x @ layers[name][0] + layers[name][1]
    x = x if name == 'head' else torch.relu(x)
  weights = torch.cos(torch.arange(9.0, dtype=torch.float64)).reshape(3, 3)
  (x * weights).sum().backward()
  np.testing.assert_allclose(logits, x.detach(), rtol=1e-5, atol=1e-6)

  def same(path, expected):
    found = grads['params']
    for name in path:
      found = found[name]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

  same(('embedding', 'embedding'), table.grad)
  for path, weight in pairs.items():
    same(path, weight.grad.t())
  for name, (kernel, bias) in layers.items():
    same((name, 'kernel'), kernel.grad)
    same((name, 'bias'), bias.grad)


def test_dropout_is_before_both_layers_in_training():
  """That frozen vectors stay is in tests/tasks/test_texts.py."""
  model, seen = small(dropout=0.5), []

  def record(call, args, kwargs, context):
    if isinstance(context.module, Dropout) and 'train' in kwargs:
      seen.append((context.module.rate, args[0].shape, kwargs['train']))
    return call(*args, **kwargs)

  keys = {'params': jax.random.key(0), 'drop_path': jax.random.key(1)}
  for train in (True, False):
    with nn.intercept_methods(record):
      jax.eval_shape(functools.partial(model.init, train=train), keys, IDS)
  assert seen == [
    (0.5, (3, width), train) for train in (True, False) for width in (5, 7)
  ]


def test_what_it_cannot_read_is_refused():
  with pytest.raises(UsageError, match='vocabulary_size is None'):
    create_model('lstm', 2)
  with pytest.raises(UsageError, match=r'float32 \[1, 4, 4, 3\]; expected th'):
    shapes(small(), np.zeros((1, 4, 4, 3), np.float32))
