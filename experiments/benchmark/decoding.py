"""The suite `decoding`: translations a second, with and without a cache."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark import timing
from maxsup_jax import models
from maxsup_jax.errors import UsageError, one_of
from maxsup_jax.models.search import search
from maxsup_jax.models.transformer import Cache, Transformer

_SIZES = {'sentences': 32, 'tokens': 24, 'vocabulary': 8192, 'rounds': 10}


class Uncached(Transformer):
  """Computes all tokens, and the source, anew for each token.

  Its cache has the ids so far in the place of keys, and the source.
  """

  def start(self, source: jax.Array, count: int, length: int) -> Cache:
    """See `Transformer`."""
    ids = jnp.zeros((1, len(source) * count, length), jnp.int32)
    return Cache(ids, ids, source, source, source != 0)

  def step(
    self, tokens: jax.Array, index: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """See `Transformer`; before the first token, id 0 is where nothing is."""
    ids = cache.keys.at[0, :, index - 1].set(tokens)
    source = cache.memory_keys
    source = jnp.repeat(source, ids.shape[1] // len(source), 0)
    logits, _ = self(source, ids[0])
    return logits[:, index], cache._replace(keys=ids, values=ids)


def measure(**given: Any) -> dict[str, Any]:
  """Times greedy and beam search of random weights, all to the same length."""
  on_cpu = jax.default_backend() == 'cpu'
  name = 'transformer_tiny' if on_cpu else 'transformer_base'
  s = timing.filled({'model': name, **_SIZES}, given)
  one_of('--model', s.model, models.TRANSFORMERS)
  model: Any = models.create_model(s.model, s.vocabulary)
  uncached = Uncached(
    **{n: getattr(model, n) for n in ('num_classes', 'dim', 'depth', 'heads')},
    hidden=model.hidden,
    dtype=model.dtype,
  )
  key = jax.random.key(0)
  shape = (s.sentences, s.tokens)
  source = jax.random.randint(key, shape, 3, s.vocabulary)
  variables = jax.jit(functools.partial(model.init, train=False))(
    key, source, source
  )
  programs: dict[str, Callable[[], Any]] = {}
  for beams in (1, 4):
    kind = 'greedy' if beams == 1 else f'beam of {beams}'
    for title, of in ((kind, model), (f'{kind}, uncached', uncached)):
      timing.say(f'compiling {title}')
      translate = functools.partial(
        search, of, beams=beams, length=s.tokens, early_stop=False
      )
      program = jax.jit(translate).lower(variables, source).compile()
      programs[title] = functools.partial(program, variables, source)
    check(kind, *(programs[n]() for n in (kind, f'{kind}, uncached')))
  timers = {
    n: timing.timer(functools.partial(_wait, program))
    for n, program in programs.items()
  }
  seconds = timing.time_in_turn(timers, s.rounds, 1)
  return {
    'settings': vars(s),
    'results': {
      'programs': {
        n: {
          'seconds': timing.summary(times),
          'sentences_per_second': s.sentences / float(np.median(times)),
          'over_greedy': timing.ratios(times, seconds['greedy']),
        }
        for n, times in seconds.items()
      }
    },
  }


def check(what: str, found: Any, expected: Any) -> None:
  """Refuses a search that is not the same with and without a cache."""
  if not (
    np.array_equal(found.ids, expected.ids)
    and np.allclose(found.scores, expected.scores, 1e-4, 1e-4)
  ):
    raise UsageError(f'{what} translates otherwise without a cache')


def _wait(program: Callable[[], Any]) -> None:
  jax.block_until_ready(program())
