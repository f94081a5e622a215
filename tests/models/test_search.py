"""The search against all the hypotheses that there are."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models.search import search
from maxsup_jax.models.transformer import Transformer

# Padding, end, unknown and two words; at most four tokens.
V, LENGTH = 6, 4
MODEL = Transformer(V, dim=8, depth=1, heads=2, hidden=8, dropout=0.0)
SOURCE = np.array([[3, 4, 5, 1], [4, 1, 0, 0], [5, 5, 3, 1]], np.int32)
WORDS = (3, 4, 5)
# Every sequence that ends, and those that never do.
ENDED = [
  (*words, 1)
  for n in range(LENGTH)
  for words in itertools.product(WORDS, repeat=n)
]
MOST = len(ENDED)


def variables_of(seed):
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), SOURCE, SOURCE)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.7, x.shape).astype(np.float32), shapes
  )


@functools.cache
def compiled(beams):
  return jax.jit(functools.partial(search, MODEL, beams=beams, length=LENGTH))


def found(beams, variables, source=SOURCE, **options):
  """Always all the options, so that there is one program."""
  options = {'alpha': 0.6, 'temperature': 1.0, 'early_stop': True, **options}
  return jax.device_get(compiled(beams)(variables, source, **options))


@functools.cache
def teacher_forced():
  targets = np.zeros((MOST, LENGTH), np.int32)
  for row, ids in enumerate(ENDED):
    targets[row, : len(ids)] = ids

  @jax.jit
  def run(variables):
    def logits(source):
      every = jnp.broadcast_to(source, (MOST, len(source)))
      return MODEL.apply(variables, every, targets)[0]

    return jax.lax.map(logits, SOURCE)

  return lambda variables: np.asarray(run(variables), np.float64)


def ranked(variables, alpha, temperature=1.0):
  """All hypotheses of each sentence with their scores, best first."""
  z = teacher_forced()(variables) / temperature
  logps = z - np.logaddexp.reduce(z, -1, keepdims=True)
  for of_sentence in logps:
    scores = [
      sum(of_sentence[row, t, i] for t, i in enumerate(ids))
      / ((5 + len(ids)) / 6) ** alpha
      for row, ids in enumerate(ENDED)
    ]
    order = np.argsort(scores)[::-1]
    yield [ENDED[i] for i in order], np.sort(scores)[::-1]


def plain(ids):
  return tuple(int(i) for i in ids if i)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize(
  ('alpha', 'temperature'), [(0.0, 1.0), (0.6, 1.0), (0.6, 2.0)]
)
def test_many_beams_find_the_exhaustive_ranking(seed, alpha, temperature):
  variables = variables_of(seed)
  # Twice as many candidates as there are at any step.
  got = found(64, variables, alpha=alpha, temperature=temperature)
  expected = ranked(variables, alpha, temperature)
  for row, (ids, scores) in enumerate(expected):
    np.testing.assert_allclose(got.scores[row, :MOST], scores, atol=2e-5)
    assert [plain(x) for x in got.ids[row, :MOST]] == ids
    assert np.isneginf(got.scores[row, MOST:]).all()


@pytest.mark.parametrize('alpha', [0.0, 0.6])
@pytest.mark.parametrize('seed', range(4))
def test_few_beams(seed, alpha):
  variables = variables_of(seed)
  got = found(2, variables, alpha=alpha)
  full = found(2, variables, alpha=alpha, early_stop=False)
  np.testing.assert_array_equal(got.ids, full.ids)
  np.testing.assert_array_equal(got.scores, full.scores)
  for row, (ids, scores) in enumerate(ranked(variables, alpha)):
    of_ids = dict(zip(ids, scores))
    mine = [plain(x) for x in got.ids[row]]
    # What it finds has the score that it says, none comes twice.
    assert len(set(mine)) == 2
    expected = [of_ids[x] for x in mine]
    np.testing.assert_allclose(got.scores[row], expected, atol=2e-5)
    assert expected[0] >= expected[1]
    # The other sentences of a batch change nothing.
    alone = found(2, variables, SOURCE[[row] * 3], alpha=alpha)
    np.testing.assert_array_equal(alone.ids[0], got.ids[row])


def greedy(variables, source):
  """Token by token without a cache."""
  ids = []
  apply = _apply()
  for t in range(LENGTH):
    target = np.zeros((1, LENGTH), np.int32)
    target[0, :t] = ids
    logits = np.array(apply(variables, source[None], target)[0][0, t])
    logits[[0, 2]] = -np.inf
    ids.append(int(logits.argmax()))
    if ids[-1] == 1:
      break
  return tuple(ids)


@functools.cache
def _apply():
  return jax.jit(MODEL.apply)


def test_one_beam_is_greedy():
  endless = 0
  for seed in range(6):
    variables = variables_of(seed)
    got = found(1, variables)
    for row, source in enumerate(SOURCE):
      expected = greedy(variables, source)
      assert plain(got.ids[row, 0]) == expected
      endless += 1 not in expected
  # What does not end at the limit is there, too.
  assert endless


def test_wrong_arguments():
  for change, wanted in (
    ({'beams': 0}, 'beams is 0'),
    ({'alpha': -1.0}, 'alpha is'),
    ({'temperature': 0.0}, 'temperature is'),
    ({'length': 0}, 'length is'),
  ):
    arguments = {'length': LENGTH, **change}
    with pytest.raises(UsageError, match=wanted):
      search(MODEL, {}, SOURCE, **arguments)
