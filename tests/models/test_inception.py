"""Inception-v4 against torch's functions under timm's names."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from maxsup_jax.errors import UsageError
from maxsup_jax.models import torch_weights
from maxsup_jax.models.inception import InceptionV4
from tests.random_runs import random_tree

MODEL = InceptionV4(num_classes=7, blocks=(2, 1, 1), divide=32)


def logits_of(weights, images):
  """The net of timm's `inception_v4.py`, in evaluation."""

  def conv(x, name, stride=1, padding=0):
    x = functional.conv2d(
      x, weights[f'{name}.conv.weight'], stride=stride, padding=padding
    )
    norm = [weights[f'{name}.bn.{n}'] for n in ('running_mean', 'running_var')]
    scale = [weights[f'{name}.bn.{n}'] for n in ('weight', 'bias')]
    return functional.relu(functional.batch_norm(x, *norm, *scale, eps=1e-3))

  def row(x, name, *paddings, last=None, first=0):
    """Convolutions one after the other; the last may be strided."""
    for i, padding in enumerate(paddings, first):
      end = last is not None and i == len(paddings) - 1
      x = conv(x, f'{name}.{i}', last if end else 1, padding)
    return x

  def mean(x):
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

  def most(x):
    return functional.max_pool2d(x, 3, 2)

  wide, tall = (0, 3), (3, 0)
  x = conv(images, 'features.0', 2)
  x = conv(conv(x, 'features.1'), 'features.2', 1, 1)
  x = torch.cat([most(x), conv(x, 'features.3.conv', 2)], 1)
  branch1 = row(x, 'features.4.branch1', 0, wide, tall, 0)
  x = torch.cat([row(x, 'features.4.branch0', 0, 0), branch1], 1)
  x = torch.cat([conv(x, 'features.5.conv', 2), most(x)], 1)
  for i in (6, 7):
    at = f'features.{i}.branch'
    parts = [
      conv(x, f'{at}0'),
      row(x, f'{at}1', 0, 1),
      row(x, f'{at}2', 0, 1, 1),
    ]
    x = torch.cat([*parts, conv(mean(x), f'{at}3.1')], 1)
  at = 'features.8.branch'
  branch1 = row(x, f'{at}1', 0, 1, 0, last=2)
  x = torch.cat([conv(x, f'{at}0', 2), branch1, most(x)], 1)
  at = 'features.9.branch'
  branch1 = row(x, f'{at}1', 0, wide, tall)
  branch2 = row(x, f'{at}2', 0, tall, wide, tall, wide)
  x = torch.cat(
    [conv(x, f'{at}0'), branch1, branch2, conv(mean(x), f'{at}3.1')], 1
  )
  at = 'features.10.branch'
  branch1 = row(x, f'{at}1', 0, wide, tall, 0, last=2)
  x = torch.cat([row(x, f'{at}0', 0, 0, last=2), branch1, most(x)], 1)
  at = 'features.11.branch'
  one = conv(x, f'{at}1_0')
  two = conv(x, f'{at}2_0')
  two = conv(conv(two, f'{at}2_1', 1, (1, 0)), f'{at}2_2', 1, (0, 1))
  sides = ('a', (0, 1)), ('b', (1, 0))
  parts = [conv(one, f'{at}1_1{side}', 1, p) for side, p in sides]
  parts += [conv(two, f'{at}2_3{side}', 1, p) for side, p in sides]
  x = torch.cat([conv(x, f'{at}0'), *parts, conv(mean(x), f'{at}3.1')], 1)
  return functional.linear(
    x.mean((2, 3)), weights['last_linear.weight'], weights['last_linear.bias']
  )


def test_same_logits_as_torch():
  images = np.random.default_rng(0).normal(size=(2, 79, 91, 3))
  images = images.astype(np.float32)
  like = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.asarray(images))
  variables = random_tree(like)
  given = torch_weights.to_torch(variables, MODEL)
  weights = {n: torch.tensor(value) for n, value in given.items()}
  seen = torch.tensor(images.transpose(0, 3, 1, 2))
  expected = logits_of(weights, seen).numpy()
  logits, outputs = jax.jit(MODEL.apply)(variables, images)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
  assert outputs['penultimate'].shape == (2, 1536 // 32)
  assert outputs['feature_map'].shape[1:3] == (1, 1)
  back = torch_weights.from_torch(given, MODEL, like)
  jax.tree.map(np.testing.assert_array_equal, back, dict(variables))
  assert MODEL.saliency_layer == 'features_11' in variables['params']


def test_small_images_are_refused():
  with pytest.raises(UsageError, match='images are 74x80; expected at least'):
    jax.eval_shape(MODEL.init, jax.random.key(0), jnp.ones((1, 74, 80, 3)))
  with pytest.raises(UsageError, match='dropout is 1'):
    dataclasses.replace(MODEL, dropout=1.0)
