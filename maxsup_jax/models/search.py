"""Translation of sentences with a `Transformer`: greedy and beam search."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.errors import integer, number
from maxsup_jax.models.transformer import EOS, PAD, UNK, Cache, Transformer


class Hypotheses(NamedTuple):
  """The best translations of each sentence, the best one first.

  Attributes:
    ids: int32 `[B, k, T]`; `EOS` at the end, 0 behind it.
    scores: float32 `[B, k]`; -inf for none.
  """

  ids: jax.Array
  scores: jax.Array


class _State(NamedTuple):
  at: jax.Array  # how many tokens there are
  logps: jax.Array  # [B, k], of hypotheses that go on
  ids: jax.Array  # [B, k, T]
  done: Hypotheses
  cache: Cache


def search(
  model: Transformer,
  variables: Mapping[str, Any],
  source: jax.Array,
  *,
  beams: int = 4,
  alpha: ArrayLike = 0.6,
  temperature: ArrayLike = 1.0,
  length: int,
  early_stop: ArrayLike = True,
) -> Hypotheses:
  r"""Translates a batch; to be compiled with `jax.jit`.

  Beam search keeps k live hypotheses. Each step adds :math:`\log \mathrm{
  softmax}(z / T)` of every token and looks at the best 2k: those that end go to
  the k best finished ones with the score

  .. math:: \frac{\log p}{\mathrm{lp}(n)}, \quad
    \mathrm{lp}(n) = \left(\frac{5 + n}{6}\right)^\alpha

  for n tokens, the last one counted; of the others k live on. It ends where no
  live one can beat the worst finished one any more. Where none has finished
  within `length` tokens, the live ones are returned with :math:`\log p` as
  their score. With one beam it is the greedy translation: always the likeliest
  token. (A beam search of one beam would put aside what ends early, and might
  prefer it.)

  Padding and the unknown token are never chosen; their probability is not given
  to the others, so that :math:`\log p` is that of the model.

  Args:
    model: whose `start` and `step` are called.
    variables: of the model.
    source: int `[B, S]`, 0 where there is no token. A row without tokens has a
      translation, which means nothing.
    beams: k.
    alpha: of the length penalty; at least 0; may be traced.
    temperature: T, above 0; may be traced.
    length: of the longest translation, `EOS` counted.
    early_stop: False goes on to `length`, for the same result.

  Examples:
    >>> import functools
    >>> from maxsup_jax.models import create_model
    >>> model = create_model('transformer_tiny', 20)
    >>> x = jnp.array([[5, 6, 1], [7, 1, 0]])
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), x, x)
    >>> translate = functools.partial(search, model, beams=2, length=9)
    >>> found = jax.eval_shape(translate, variables, x)
    >>> found.ids.shape, found.scores.shape
    ((2, 2, 9), (2, 2))

  References:
    Wu et al. 2016, *Google's neural machine translation system*, for the length
    penalty; `beam_search` of tensor2tensor.
  """
  integer('beams', beams, 1)
  integer('length', length, 1)
  if not isinstance(alpha, jax.core.Tracer):
    number('alpha', alpha, 0)
  if not isinstance(temperature, jax.core.Tracer):
    number('temperature', temperature, above=0)
  B, k = len(source), beams
  forbidden = jnp.isin(jnp.arange(model.num_classes), jnp.array([PAD, UNK]))

  def penalty(n):
    return ((5 + n) / 6) ** alpha

  def logps_of(state):
    """Of every next token after each hypothesis, `[B, k, V]`."""
    last = state.ids[:, :, state.at - 1]
    last = jnp.where(state.at > 0, last, PAD)
    logits, cache = model.apply(
      variables, last.reshape(-1), state.at, state.cache, method='step'
    )
    logps = jax.nn.log_softmax(logits / temperature).reshape(B, k, -1)
    return jnp.where(forbidden, -jnp.inf, logps), cache

  def goes_on(state):
    best = state.logps.max(-1) / penalty(length)
    beaten = (state.done.scores.min(-1) >= best).all() & early_stop
    return (state.at < length) & ~beaten

  def step(state):
    logps, cache = logps_of(state)
    V = logps.shape[-1]
    total = (state.logps[..., None] + logps).reshape(B, -1)
    # The best 2k hold k that go on, for at most k of them end.
    count = 1 if k == 1 else min(2 * k, k * V)
    best, at = jax.lax.top_k(total, count)
    parent, token = at // V, (at % V).astype(jnp.int32)
    ids = jnp.take_along_axis(state.ids, parent[..., None], 1)
    ids = ids.at[:, :, state.at].set(token)
    ends = token == EOS
    ended = jnp.where(ends, best / penalty(state.at + 1), -jnp.inf)
    scores = jnp.concatenate([state.done.scores, ended], 1)
    every = jnp.concatenate([state.done.ids, ids], 1)
    scores, chosen = jax.lax.top_k(scores, k)
    done = Hypotheses(jnp.take_along_axis(every, chosen[..., None], 1), scores)
    logps, chosen = jax.lax.top_k(jnp.where(ends, -jnp.inf, best), k)
    ids = jnp.take_along_axis(ids, chosen[..., None], 1)
    parent = jnp.take_along_axis(parent, chosen, 1)
    rows = (parent + k * jnp.arange(B)[:, None]).reshape(-1)
    cache = cache._replace(
      keys=cache.keys[:, rows], values=cache.values[:, rows]
    )
    return _State(state.at + 1, logps, ids, done, cache)

  nothing = jnp.zeros((B, k, length), jnp.int32)
  cache: Any = model.apply(variables, source, k, length, method='start')
  state = jax.lax.while_loop(
    goes_on,
    step,
    _State(
      at=jnp.zeros((), jnp.int32),
      # One empty hypothesis, not k equal ones.
      logps=jnp.full((B, k), -jnp.inf).at[:, 0].set(0.0),
      ids=nothing,
      done=Hypotheses(nothing, jnp.full((B, k), -jnp.inf)),
      cache=cache,
    ),
  )
  none = jnp.isneginf(state.done.scores[:, :1])
  return Hypotheses(
    jnp.where(none[..., None], state.ids, state.done.ids),
    jnp.where(none, state.logps, state.done.scores),
  )
