"""Translations by a trained run, and what they are worth."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax import errors, files
from maxsup_jax.data import phrases, text
from maxsup_jax.diagnostics import bootstrap, calibration
from maxsup_jax.errors import UsageError
from maxsup_jax.models import search as search_lib
from maxsup_jax.tasks.loading import LoadedRun
from maxsup_jax.tasks.translation import Translation
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.sums import add_sums


class Translator:
  """Translates texts with the weights of a run; programs are compiled once.

  Sentences of similar length are searched together, on all devices of one
  process.

  Args:
    loaded: a run of translation, from `load_run`.
    beams: how many hypotheses live; 1 for the greedy translation.
    alpha: of the length penalty, see `maxsup_jax.models.search`.
    variables: other weights than those of the checkpoint, see `averaged`.
    rows: sentences of a batch; by default as many as an evaluation has, divided
      by the beams.

  Examples:
    In a notebook::

      from maxsup_jax import tasks
      from maxsup_jax.tasks.translating import Translator
      translator = Translator(tasks.load_run('runs/phrases'), beams=4)
      translator(['half past four'], temperature=1.2)
  """

  def __init__(
    self,
    loaded: LoadedRun,
    *,
    beams: int = 4,
    alpha: float = 0.6,
    variables: dict[str, Any] | None = None,
    rows: int | None = None,
  ):
    self.task = translation_of(loaded)
    self.beams = errors.integer('beams', beams, 1, 1024)
    self.alpha = errors.number('alpha', alpha, 0)
    self._rows = rows
    self._devices = loaded.run.devices
    params = (variables or loaded.variables)['params']
    self._variables = self._devices.replicate({'params': params})

  def __call__(
    self,
    texts: Sequence[str],
    *,
    temperature: float = 1.0,
    progress: Callable[[int], Any] = lambda count: None,
  ) -> list[str]:
    """Translates texts.

    Args:
      texts: without line breaks. An empty one has an empty translation; one
        with characters that the vocabulary lacks has unknown tokens there.
      temperature: divides the logits, see `maxsup_jax.models.search`.
      progress: is told how many texts are done, batch by batch.

    Returns:
      As many translations.
    """
    errors.number('temperature', temperature, above=0)
    found = [''] * len(texts)
    ids = {i: self.task.vocabulary.encode(t) for i, t in enumerate(texts)}
    order = sorted(
      (i for i in ids if len(ids[i]) > 1), key=lambda i: len(ids[i])
    )
    progress(len(texts) - len(order))
    while order:
      width = self._width(len(ids[order[0]]))
      count = self._devices.count
      rows = self._rows or max(
        1, self.task.config.eval_batch_size // (width * self.beams)
      )
      rows = -(-rows // count) * count
      batch = [i for i in order[:rows] if len(ids[i]) <= width]
      order = order[len(batch) :]
      source = text.Ragged.of(ids[i] for i in batch).padded(
        np.arange(len(batch)), rows, width
      )
      best = self._search(source, temperature)
      for i, row in zip(batch, best):
        found[i] = self.task.vocabulary.decode(row)
      progress(len(batch))
    return found

  def _width(self, length: int) -> int:
    """The width of a bucket, or a multiple of 8 beyond them."""
    for width in self.task.train.widths:
      if length <= width:
        return width
    return -(-length // 8) * 8

  def _search(self, source: np.ndarray, temperature: float) -> np.ndarray:
    temperatures = np.full(len(source), temperature, np.float32)
    sharded = self._devices.shard((source, temperatures))
    return self._devices.gather(self._step(self._variables, *sharded))

  @functools.cached_property
  def _step(self) -> Callable:
    model: Any = self.task.model

    def step(variables, source, temperatures):
      found = search_lib.search(
        model,
        variables,
        source,
        beams=self.beams,
        alpha=self.alpha,
        temperature=temperatures[0],
        # tensor2tensor has S + 100, in which nobody believes.
        length=2 * source.shape[1] + 10,
      )
      return found.ids[:, 0]

    if self._devices.count > 1:
      return self._devices.map(step)

    # A loop that is mapped copies its cache in every step.
    @jax.jit
    def alone(*arguments):
      first = jax.tree.map(lambda x: x[0], arguments)
      return step(*first)[None]

    return alone


class Score(NamedTuple):
  """What translations are worth beside references.

  Attributes:
    bleu: corpus BLEU of sacreBLEU, lower case, `intl` tokens; None where
      sacreBLEU is not installed.
    signature: how it was computed.
    length_ratio: words and marks of the translations for one of the references.
  """

  bleu: float | None
  signature: str
  length_ratio: float


def score(translations: Sequence[str], references: Sequence[str]) -> Score:
  """Compares translations with one reference each.

  Case does not count, as in `t2t_bleu`, which this equals.

  Raises:
    UsageError: if there are not as many references.

  Examples:
    >>> score(['halb vier'], ['halb fünf Uhr']).length_ratio
    0.6666666666666666
  """
  if len(translations) != len(references):
    raise UsageError(
      f'there are {len(references):,} references for {len(translations):,} '
      'translations; expected as many'
    )
  counts = [
    sum(len(phrases.TOKEN.findall(line)) for line in side)
    for side in (translations, references)
  ]
  ratio = counts[0] / counts[1] if counts[1] else float('nan')
  try:
    from sacrebleu.metrics import BLEU
  except ImportError:
    needed = 'BLEU needs pip install "maxsup_jax[translation]"'
    return Score(None, needed, ratio)
  bleu = BLEU(lowercase=True, tokenize='intl')
  found = bleu.corpus_score(list(translations), [list(references)])
  return Score(float(found.score), str(bleu.get_signature()), ratio)


def bleu_counts(
  translations: Sequence[str], references: Sequence[str]
) -> np.ndarray | None:
  """What BLEU sums over sentences, int `[n, 10]`; None without sacreBLEU.

  Matches of one to four words, how many there were, and both lengths.
  """
  try:
    from sacrebleu.metrics import BLEU
  except ImportError:
    return None
  bleu = BLEU(lowercase=True, tokenize='intl')
  found = []
  for translation, reference in zip(translations, references, strict=True):
    of = bleu.corpus_score([translation], [[reference]])
    found.append([*of.counts, *of.totals, of.sys_len, of.ref_len])
  return np.array(found, np.int64)


def bleu_of(sums: np.ndarray) -> float:
  """BLEU of sums over the rows of `bleu_counts`, as `score` has it."""
  from sacrebleu.metrics import BLEU

  counts = [int(x) for x in sums]
  found = BLEU.compute_bleu(
    counts[:4], counts[4:8], counts[8], counts[9], smooth_method='exp'
  )
  return float(found.score)


def valid_share(translations: Sequence[str], pairs: text.Pairs) -> float | None:
  """The share of translations that the grammar allows; None without one."""
  if pairs.grammar is None:
    return None
  valid = 0
  for phrase, translation in zip(pairs.grammar, translations, strict=True):
    tokens = phrases.TOKEN.findall(translation)
    allowed = (phrases.TOKEN.findall(t) for t in phrase.wordings())
    valid += any(tokens == wording for wording in allowed)
  return valid / len(translations)


def next_tokens(
  loaded: LoadedRun,
  temperatures: Sequence[float],
  *,
  variables: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
  """Evaluates next tokens after the true beginnings at several temperatures.

  Args:
    loaded: a run of translation.
    temperatures: what the logits are divided by.
    variables: other weights than those of the checkpoint.

  Returns:
    For each temperature the report of the evaluation, with `temperature`.
  """
  task, devices = translation_of(loaded), loaded.run.devices
  # Of flax, which gives it a `replace`.
  host: Any = loaded.state
  state = devices.replicate(
    host.replace(params=(variables or loaded.variables)['params'])
  )

  def step(state, batch, temperature):
    sums = task.eval_sums(
      {'params': state.params},
      batch,
      step=state.step,
      objective_state=state.objective_state,
      temperature=temperature,
    )
    return jax.lax.psum(sums, AXIS)

  mapped = devices.map(step)
  found = []
  for temperature in temperatures:
    errors.number('temperature', temperature, above=0)
    value = devices.replicate(np.float32(temperature))
    total: Any = None
    for batch in devices.stream(task.eval_batches()):
      total = add_sums(total, devices.fetch(mapped(state, batch, value)))
    found.append({'temperature': temperature, **task.report(total)})
  return found


class Tokens(NamedTuple):
  """Next tokens after the true beginnings, sentence by sentence.

  Attributes:
    sentences: int64 `[N]`, the place of each token's sentence in the split.
    correct: bool `[N]`, whether the likeliest token is the true one.
    log_odds: float64 `[N]`, of the likeliest token, at temperature 1; it tells
      apart what confidences near 1 do not.
    confidence, nll: float64 `[M, N]`, at each of M temperatures.
  """

  sentences: np.ndarray
  correct: np.ndarray
  log_odds: np.ndarray
  confidence: np.ndarray
  nll: np.ndarray

  def of(self, sentences: np.ndarray) -> 'Tokens':
    """The tokens of some sentences."""
    chosen = np.isin(self.sentences, sentences)
    return Tokens(*(values[..., chosen] for values in self))

  def reliability(self, at: int = 0) -> calibration.ReliabilityCurve:
    """Accuracy by confidence at a temperature, in 15 bins of equal width."""
    return calibration.reliability_curve(self.confidence[at], self.correct)

  def ece(self, at: int = 0) -> float:
    """The expected calibration error of these bins."""
    return calibration.calibration_error(self.reliability(at))


def tokens(
  loaded: LoadedRun,
  temperatures: Sequence[float],
  *,
  variables: dict[str, Any] | None = None,
  train: bool = False,
) -> Tokens:
  """Measures every next token of a split at several temperatures.

  No logits are kept: those of 84,000 tokens and 33,000 subwords take 11 GB.

  Args:
    loaded: a run of translation, in a single process.
    temperatures: what the logits are divided by.
    variables: other weights than those of the checkpoint.
    train: takes the pairs that were trained on instead of the split.
  """
  task, devices = translation_of(loaded), loaded.run.devices
  for temperature in temperatures:
    errors.number('temperature', temperature, above=0)
  buckets = task.evaluation
  if train:
    # In batches of the same shapes, so that nothing is compiled again.
    widths = buckets.widths[: len(task.train.widths)]
    buckets = text.Buckets(
      task.train.data, widths, buckets.tokens, devices.count
    )
  model: Any = task.model

  def step(variables, source, target, temperatures):
    logits, _ = model.apply(variables, source, target)
    top = logits.argmax(-1)
    logits -= logits.max(-1, keepdims=True)
    own = jnp.take_along_axis(logits, target[..., None], -1)[..., 0]
    others = jnp.arange(logits.shape[-1]) != top[..., None]

    def at(temperature):
      total = jax.nn.logsumexp(logits / temperature, -1)
      return jnp.exp(-total), total - own / temperature

    confidence, nll = jax.lax.map(at, temperatures)
    return {
      'correct': top == target,
      'log_odds': -jax.nn.logsumexp(logits, -1, where=others),
      # A batch is joined along its first axis.
      'confidence': jnp.moveaxis(confidence, 0, -1),
      'nll': jnp.moveaxis(nll, 0, -1),
    }

  mapped = devices.map(step)
  params = (variables or loaded.variables)['params']
  fixed = devices.replicate({'params': params})
  values = devices.replicate(np.asarray(temperatures, np.float32))
  joined = _over_tokens(
    buckets, devices, lambda *batch: mapped(fixed, *batch, values)
  )
  confidence, nll = (
    joined[name].astype(np.float64).T for name in ('confidence', 'nll')
  )
  return Tokens(
    joined['sentences'],
    joined['correct'],
    joined['log_odds'].astype(np.float64),
    # Rounding may exceed 1.
    np.minimum(confidence, 1),
    nll,
  )


def _over_tokens(
  buckets: text.Buckets,
  devices: Devices,
  apply: Callable[[jax.Array, jax.Array], Any],
) -> dict[str, np.ndarray]:
  """What a mapped function gives for each real token, sentence by sentence.

  Args:
    buckets: of a split.
    devices: of a single process.
    apply: gives arrays `[devices, b, T, ...]` for sources and targets.

  Returns:
    Arrays `[N, ...]` by their names, with `labels` and `sentences`, the place
    of each token's sentence.
  """
  parts: dict[str, list[np.ndarray]] = {}
  for (bucket, number), batch in zip(
    buckets.batches, text.eval_batches(buckets)
  ):
    rows = buckets.rows(bucket)
    members = buckets.members[bucket][number * rows : (number + 1) * rows]
    target = batch['target']
    found = devices.gather(apply(*devices.shard((batch['source'], target))))
    sentences = np.zeros(target.shape, np.int64)
    sentences[: len(members)] = members[:, None]
    for name, array in (
      *found.items(),
      ('labels', target),
      ('sentences', sentences),
    ):
      parts.setdefault(name, []).append(array[target != text.PAD])
  joined = {name: np.concatenate(of) for name, of in parts.items()}
  order = np.argsort(joined['sentences'], kind='stable')
  return {name: array[order] for name, array in joined.items()}


def token_outputs(loaded: LoadedRun, limit: int) -> dict[str, np.ndarray]:
  """Logits and features of the next tokens of some sentences.

  Args:
    loaded: a run of translation, in a single process.
    limit: tokens at most. Of more, whole sentences are drawn, always the same
      ones, as many as fit.

  Returns:
    The arrays of `maxsup_jax.outputs`: `logits` `[N, V]`, `features` `[N, D]`,
    `labels` and `groups`, the sentence of each token, `[N]`; `weights`
    `[V, D]`, which are the embedding, and `class_names` `[V]`.

  Raises:
    UsageError: if no two sentences fit.
  """
  task, devices = translation_of(loaded), loaded.run.devices
  errors.integer('limit', limit, 2)
  encoded = task.evaluation.data
  chosen = np.arange(len(encoded))
  if len(encoded.target.ids) > limit:
    order = np.random.default_rng(0).permutation(len(encoded))
    fits = np.cumsum(encoded.target.lengths[order]) <= limit
    chosen = np.sort(order[fits])
  if len(chosen) < 2:
    raise UsageError(
      f'limit is {limit}; expected room for at least 2 sentences of '
      f'{encoded.name}'
    )
  some = text.Encoded(
    encoded.name, encoded.source.chosen(chosen), encoded.target.chosen(chosen)
  )
  buckets = dataclasses.replace(task.evaluation, data=some)
  model: Any = task.model

  def step(variables, source, target):
    logits, given = model.apply(variables, source, target)
    return {'logits': logits, 'features': given['penultimate']}

  mapped = devices.map(step)
  variables = devices.replicate({'params': loaded.variables['params']})
  found = _over_tokens(buckets, devices, lambda *b: mapped(variables, *b))
  return {
    'logits': found['logits'].astype(np.float32),
    'features': found['features'].astype(np.float32),
    'labels': found['labels'],
    'groups': chosen[found['sentences']],
    'weights': np.asarray(loaded.variables['params']['embedding'], np.float32),
    'class_names': np.array(task.vocabulary.pieces()),
  }


# From half to double, and where Müller et al. look for the least ECE.
_FITTED = np.geomspace(0.5, 2, 29)
_ECE_GRID = np.arange(16, 31) / 20


class Fit(NamedTuple):
  """Temperatures that were chosen on half of the sentences.

  Attributes:
    temperature: of the least NLL there; None where that is not between 0.5
      and 2.
    ece_temperature: of the least ECE there, of 0.8, 0.85, ..., 1.5.
    nll, ece: of the other sentences at temperature 1.
    nll_scaled, ece_scaled: of them at `temperature`; NaN without one.
    tokens: of all sentences, at 1 and, if there is one, at `temperature`.
    sentences: how many were fitted.
  """

  temperature: float | None
  ece_temperature: float
  nll: float
  ece: float
  nll_scaled: float
  ece_scaled: float
  tokens: Tokens
  sentences: int


def fit_temperature(
  loaded: LoadedRun,
  *,
  seed: int = 0,
  variables: dict[str, Any] | None = None,
) -> Fit:
  """Fits a temperature to next tokens, and measures it on what it did not see.

  Half of the sentences are drawn at random, not half of the tokens: those of
  a sentence are not independent. The NLL of 29 temperatures is computed, and
  the least is that of the parabola in the logarithm of the temperature through
  the best three.

  Args:
    loaded: a run of translation, in a single process, whose split has two
      sentences or more.
    seed: of the halves; equal ones split all runs alike.
    variables: other weights than those of the checkpoint.
  """
  grid = np.concatenate([_FITTED, _ECE_GRID])
  found = tokens(loaded, grid.tolist(), variables=variables)
  every = np.unique(found.sentences)
  if len(every) < 2:
    raise UsageError(
      f'{loaded.split} has 1 sentence; expected at least 2: one to fit a '
      'temperature, one to report'
    )
  order = np.random.default_rng(seed).permutation(every)
  chosen, others = np.split(order, [len(every) // 2])
  half = found.of(chosen)
  nll = half.nll[: len(_FITTED)].mean(1)
  best = int(nll.argmin())
  temperature = None
  if 0 < best < len(nll) - 1:
    before, at, after = nll[best - 1 : best + 2]
    curvature = before - 2 * at + after
    shift = (before - after) / (2 * curvature) if curvature > 0 else 0.0
    ratio = _FITTED[1] / _FITTED[0]
    temperature = float(_FITTED[best] * ratio**shift)
  errors_of = [half.ece(len(_FITTED) + i) for i in range(len(_ECE_GRID))]
  ece_temperature = float(_ECE_GRID[int(np.argmin(errors_of))])
  both = [1.0] if temperature is None else [1.0, temperature]
  found = tokens(loaded, both, variables=variables)
  rest = found.of(others)
  values = [(float(rest.nll[i].mean()), rest.ece(i)) for i in range(len(both))]
  (nll_one, ece_one), (nll_scaled, ece_scaled) = (
    values if len(values) == 2 else (values[0], (math.nan, math.nan))
  )
  return Fit(
    temperature=temperature,
    ece_temperature=ece_temperature,
    nll=nll_one,
    ece=ece_one,
    nll_scaled=nll_scaled,
    ece_scaled=ece_scaled,
    tokens=found,
    sentences=len(chosen),
  )


def intervals(
  tokens: Tokens,
  counts: np.ndarray | None,
  at: int = 0,
  *,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> dict[str, bootstrap.Interval]:
  """Bootstrap intervals of NLL and BLEU, from draws of whole sentences.

  Tokens of a sentence are not independent: an interval from draws of tokens
  would be too narrow. The ECE has none, as resampling adds noise to its bins;
  `calibration.calibrated_range` says what a calibrated model would give.

  Args:
    tokens: of a split.
    counts: of its translations, see `bleu_counts`; None for no BLEU.
    at: which of the temperatures of the tokens.
    resamples: draws of as many sentences as there are.
    level: of the percentile intervals.
    seed: of the draws; equal ones draw the same sentences of all runs.

  Returns:
    `nll` and, with `counts`, `bleu`.

  Examples:
    >>> nothing, nll = np.zeros(3), np.array([[1.0, 2.0, 3.0]])
    >>> of = Tokens(np.array([0, 0, 1]), nothing, nothing, nll, nll)
    >>> intervals(of, None)['nll']
    Interval(low=1.5, high=3.0)
  """
  every, sentence = np.unique(tokens.sentences, return_inverse=True)
  length = np.bincount(sentence)
  nll = np.bincount(sentence, tokens.nll[at])
  statistics: dict[str, Callable[[np.ndarray], float]] = {
    'nll': lambda weights: float(weights @ nll / (weights @ length))
  }
  if counts is not None:
    statistics['bleu'] = lambda weights: bleu_of(weights @ counts)
  samples = bootstrap.bootstrap(
    statistics, len(every), resamples=resamples, seed=seed
  )
  return {name: bootstrap.interval(of, level) for name, of in samples.items()}


# Müller et al. measure the ECE "on 10k tokens of the validation set"; which
# ones, they do not say.
_FIRST = 10_000


def temperature_curve(
  loaded: LoadedRun,
  temperatures: Sequence[float],
  *,
  beams: int = 4,
  alpha: float = 0.6,
  variables: dict[str, Any] | None = None,
  progress: Callable[[int], Any] = lambda count: None,
) -> dict[str, Any]:
  """BLEU, NLL and calibration of a split at temperatures, as in Figure 4.

  Args:
    loaded: a run of translation, in a single process.
    temperatures: what the logits are divided by, also inside of the search.
    beams: see `Translator`.
    alpha: likewise.
    variables: other weights than those of the checkpoint.
    progress: is told how many texts are translated, batch by batch.

  Returns:
    What `reports.translation` draws, plain data: the run, `temperatures`, a
    record for each, and `fitted`, what `fit_temperature` found, None of a
    single sentence. A record has the report of the evaluation, the fields of
    `Score`, `valid` where a grammar says what is, `nll_interval` and
    `bleu_interval` of level 95%, `ece_calibrated`, the range of 90% of what a
    calibrated model would give at this number of tokens, and, of more than
    10,000 tokens, `first_10k`: NLL and ECE of these, as in Müller et al.

  References:
    Müller et al. 2019, *When does label smoothing help?*, Figure 4.
  """
  pairs = translation_of(loaded).eval_pairs
  translator = Translator(loaded, beams=beams, alpha=alpha, variables=variables)
  found = tokens(loaded, temperatures, variables=variables)
  records = next_tokens(loaded, temperatures, variables=variables)
  for at, record in enumerate(records):
    translations = translator(
      pairs.sources, temperature=record['temperature'], progress=progress
    )
    record |= score(translations, pairs.targets)._asdict()
    record |= {'beams': beams, 'alpha': alpha}
    if (valid := valid_share(translations, pairs)) is not None:
      record['valid'] = valid
    counts = bleu_counts(translations, pairs.targets)
    for name, interval in intervals(found, counts, at).items():
      record[f'{name}_interval'] = list(interval)
    record['ece_calibrated'] = list(
      calibration.calibrated_range(found.confidence[at])
    )
    if found.nll.shape[1] > _FIRST:
      first = Tokens(*(values[..., :_FIRST] for values in found))
      record['first_10k'] = {
        'nll': float(first.nll[at].mean()),
        'ece': first.ece(at),
      }
  fitted = None
  if len(pairs) > 1:
    fit = fit_temperature(loaded, variables=variables)
    fitted = {k: v for k, v in fit._asdict().items() if k != 'tokens'}
  return {
    'workdir': str(loaded.workdir.path),
    'step': loaded.step,
    'weights': loaded.weights if variables is None else 'averaged',
    'split': loaded.split,
    'sentences': len(pairs),
    'fitted': files.jsonable(fitted),
    'temperatures': files.jsonable(records),
  }


def averaged(loaded: LoadedRun, count: int) -> dict[str, Any]:
  """The mean of the raw weights of the last checkpoints up to this one.

  Calibration changes with it, too.

  Args:
    loaded: a run.
    count: of checkpoints, of which the run must have kept as many.
  """
  errors.integer('average', count, 1)
  like = loaded.run.shapes
  with Checkpoints(loaded.workdir.checkpoints) as checkpoints:
    steps = [s for s in checkpoints.steps() if s <= loaded.step][-count:]
    if len(steps) < count:
      raise UsageError(
        f'average is {count}; expected at most {len(steps)}, the checkpoints '
        f'of {loaded.workdir.path} up to step {loaded.step} (see '
        'config.keep_checkpoints)'
      )
    trees = [checkpoints.restore(step, like)[0].params for step in steps]

  def mean(*leaves):
    return np.mean(leaves, 0, dtype=np.float64).astype(leaves[0].dtype)

  return {'params': jax.tree.map(mean, *trees)}


def translation_of(loaded: LoadedRun) -> Translation:
  """The task of a run, which must be translation."""
  task = loaded.task
  if not isinstance(task, Translation):
    raise UsageError(
      f'{loaded.workdir.path} has a run of {loaded.run.config.task}; expected '
      'translation'
    )
  return task
