import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models import TRANSFORMERS, count_parameters, create_model
from maxsup_jax.models.transformer import Transformer

V, D, HEADS = 13, 8, 2
MODEL = Transformer(V, dim=D, depth=2, heads=HEADS, hidden=12, dropout=0.0)
SOURCE = np.array([[3, 4, 5, 1, 0], [7, 1, 0, 0, 0]], np.int32)
TARGET = np.array([[6, 8, 1, 0], [9, 4, 6, 1]], np.int32)


@pytest.fixture(scope='module')
def variables():
  """Nothing at its initial value, and the padding no zero vector."""
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), SOURCE, TARGET)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.5, x.shape).astype(np.float32), shapes
  )


@pytest.fixture(scope='module')
def apply(variables):
  return jax.jit(functools.partial(MODEL.apply, variables))


def numpy_logits(params, source, target):
  """The formulas of the paper in float64, one sentence at a time."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def norm(x, q):
    x = x - x.mean(-1, keepdims=True)
    scaled = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * q['scale'] + q['bias']

  def attend(x, memory, q, causal):
    heads = []
    for h in range(HEADS):
      part = slice(h * D // HEADS, (h + 1) * D // HEADS)
      query, key, value = (
        y @ q[name]['kernel'][:, part]
        for y, name in ((x, 'query'), (memory, 'key'), (memory, 'value'))
      )
      scores = query @ key.T / np.sqrt(D / HEADS)
      if causal:
        scores[np.triu_indices(len(x), 1)] = -np.inf
      e = np.exp(scores - scores.max(-1, keepdims=True))
      heads.append(e / e.sum(-1, keepdims=True) @ value)
    return np.concatenate(heads, -1) @ q['out']['kernel']

  def layer(x, q, memory=None):
    y = norm(x, q['norm1'])
    x = x + attend(y, y, q['attn'], memory is not None)
    if memory is not None:
      x = x + attend(norm(x, q['norm2']), memory, q['cross'], False)
    y = norm(x, q['norm3']) @ q['fc1']['kernel'] + q['fc1']['bias']
    return x + np.maximum(y, 0) @ q['fc2']['kernel'] + q['fc2']['bias']

  def embed(ids):
    rows = [p['embedding'][i] * np.sqrt(D) if i else np.zeros(D) for i in ids]
    t, j = np.arange(len(ids))[:, None], np.arange(D // 2)
    angles = t / 10_000 ** (j / (D // 2 - 1))
    return rows + np.concatenate([np.sin(angles), np.cos(angles)], 1)

  memory = embed(source)
  for i in range(2):
    memory = layer(memory, p[f'encoder_{i}'])
  memory = norm(memory, p['encoder_norm'])
  x = embed([0, *target[:-1]])
  for i in range(2):
    x = layer(x, p[f'decoder_{i}'], memory)
  return norm(x, p['decoder_norm']) @ p['embedding'].T


# Sheet of tensor2tensor's structure; the small ones are counted by hand:
# per encoder layer 4 D^2 + 2 D F + F + D + 4 D, per decoder layer 4 D^2 + 2 D
# more, and 4 D for the last norms.
@pytest.mark.parametrize(
  ('name', 'vocabulary', 'count'),
  [
    ('transformer_base', 0, 44_103_680),
    ('transformer_base', 32_768, 60_880_896),
    ('transformer_base', 37_000, 63_047_680),
    ('transformer_tiny', 2_000, 360_192),
    ('transformer_small', 4_000, 1_831_424),
  ],
)
def test_parameter_counts(name, vocabulary, count):
  model = create_model(name, vocabulary or 1)
  params = jax.eval_shape(model.init, jax.random.key(0), SOURCE, TARGET)
  unused = 0 if vocabulary else model.dim
  assert count_parameters(params) - unused == count
  shapes = [x.shape for x in jax.tree.leaves(params)]
  assert shapes.count((vocabulary or 1, model.dim)) == 1


def test_it_is_the_transformer_of_the_paper(apply, variables):
  logits, out = apply(SOURCE, TARGET)
  assert logits.shape == (2, 4, V)
  assert out['penultimate'].shape == (2, 4, D)
  for row in range(2):
    source, target = SOURCE[row], TARGET[row]
    source, target = source[source > 0], target[target > 0]
    expected = numpy_logits(variables['params'], source, target)
    got = logits[row, : len(target)]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
  # The features are all that the logits need.
  features = np.asarray(out['penultimate'], np.float64)
  table = np.asarray(variables['params']['embedding'], np.float64)
  np.testing.assert_allclose(logits, features @ table.T, rtol=1e-4, atol=1e-4)


def test_what_does_not_count_is_not_seen(apply):
  logits = apply(SOURCE, TARGET)[0]
  # A token changes what comes after it, not itself or what came before.
  for t in range(4):
    other = TARGET.copy()
    other[:, t] = 11
    changed = apply(SOURCE, other)[0]
    np.testing.assert_array_equal(changed[:, : t + 1], logits[:, : t + 1])
    if t < 3:
      assert np.abs(changed - logits)[:, t + 1].max() > 0.01
  source, target = (np.pad(x, ((0, 0), (0, 2))) for x in (SOURCE, TARGET))
  wider = apply(source, target)[0][:, :4]
  np.testing.assert_allclose(wider, logits, rtol=1e-5, atol=1e-5)


def test_steps_with_a_cache_are_teacher_forcing(apply, variables):
  logits = apply(SOURCE, TARGET)[0]
  # Three copies of each sentence: their order is [B, k].
  cache = MODEL.apply(variables, SOURCE, 3, 6, method='start')
  step = jax.jit(functools.partial(MODEL.apply, variables, method='step'))
  tokens = np.zeros(6, np.int32)
  for t in range(4):
    got, cache = step(tokens, t, cache)
    for k in range(3):
      np.testing.assert_allclose(got[k::3], logits[:, t], rtol=1e-5, atol=1e-5)
    tokens = np.repeat(TARGET[:, t], 3)


@pytest.mark.slow
def test_dropout_is_that_of_the_global_batch(variables):
  model = MODEL.clone(depth=1, dropout=0.4, batch_axis='devices')

  @functools.partial(jax.vmap, axis_name='devices')
  def apply(source, target):
    rngs = {'drop_path': jax.random.key(1)}
    return model.apply(variables, source, target, train=True, rngs=rngs)[0]

  @jax.jit
  def both():
    together = apply(SOURCE[None], TARGET[None])[0]
    apart = apply(SOURCE[:, None], TARGET[:, None])[:, 0]
    return together, apart, model.apply(variables, SOURCE, TARGET)[0]

  together, apart, calm = both()
  np.testing.assert_allclose(apart, together, rtol=1e-4, atol=1e-4)
  assert np.abs(together - calm).min(-1).max() > 0.01


def test_initial_scales_and_wrong_arguments():
  model = create_model('transformer_small', 500, dtype='bfloat16')
  assert (model.dropout, model.dtype) == (0.3, jnp.bfloat16)
  init = jax.jit(create_model('transformer_tiny', 500).init)
  params = init(jax.random.key(0), SOURCE, TARGET)['params']
  assert params['embedding'].std() == pytest.approx(64**-0.5, rel=0.03)
  kernel = params['decoder_0']['fc1']['kernel']
  limit = (6 / (64 + 256)) ** 0.5
  assert 0.99 * limit < np.abs(kernel).max() <= limit
  assert kernel.std() == pytest.approx(limit / 3**0.5, rel=0.03)
  for change in ({'heads': 3}, {'dropout': 1.0}, {'depth': 0}):
    with pytest.raises(UsageError, match=next(iter(change))):
      MODEL.clone(**change)
  with pytest.raises(UsageError, match='expected int'):
    jax.eval_shape(MODEL.init, jax.random.key(0), np.ones((2, 3)), TARGET)
  with pytest.raises(UsageError, match='transformer_tiny'):
    create_model('transformer_tny', 10)
  assert set(TRANSFORMERS) == {
    f'transformer_{size}' for size in ('tiny', 'small', 'base')
  }
