"""Translations by a trained run, and what they are worth."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from maxsup_jax import errors
from maxsup_jax.data import phrases, text
from maxsup_jax.errors import UsageError
from maxsup_jax.models import search as search_lib
from maxsup_jax.tasks.loading import LoadedRun
from maxsup_jax.tasks.translation import Translation
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.parallel import AXIS
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
