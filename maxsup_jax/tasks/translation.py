"""Translation: what a step computes, and what an evaluation sums, per token."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maxsup_jax import data, errors, losses, models
from maxsup_jax.data import text
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import fused, metrics
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.run import Lengths, Run, make_run
from maxsup_jax.training.state import TrainState
from maxsup_jax.training.task import Aux, Batch, Measurement, Sums


@dataclasses.dataclass(frozen=True)
class Translation:
  """A Transformer, its texts and its objective; see `training.task`.

  A batch is measured in tokens: `config.batch_size` positions of the target,
  padding among them. All means are over real target tokens, the last one of
  each sentence among them, over all devices.

  Attributes:
    config: complete, see `config.resolve`.
    devices: what the steps are mapped over.
    vocabulary: of both languages.
    train: batches of the training split.
    evaluation: batches of the evaluation split.
    eval_pairs: its texts.
    left_out: how many training pairs there are not, and why.
    model: see `maxsup_jax.models.Transformer`.
    objective: what is minimised.
    fused: whether to train without logits in memory where they are many; the
      metrics of training then lack the top-5 accuracy.
  """

  config: ConfigDict
  devices: Devices
  vocabulary: text.Vocabulary
  train: text.Buckets
  evaluation: text.Buckets
  eval_pairs: text.Pairs
  left_out: Mapping[str, int]
  model: nn.Module
  objective: losses.Objective
  fused: bool = False
  unit = 'tokens'
  scores = ('accuracy', 'nll', 'ece')
  made_up = False
  measured_splits: tuple[str, ...] = ()
  device_dependent: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    """What the configuration calls the model."""
    return self.config.model.name

  @property
  def train_name(self) -> str:
    """The training split, for messages."""
    return self.train.data.name

  @property
  def train_examples(self) -> int:
    """The target tokens of the training split."""
    return len(self.train.data.target.ids)

  @property
  def eval_split(self) -> str:
    """The split that is evaluated during training."""
    return self.config.dataset.eval_split

  @property
  def files(self) -> dict[str, bytes]:
    """The vocabulary."""
    return {self.vocabulary.file: self.vocabulary.content()}

  def init_variables(self, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters."""
    ids = jnp.ones((1, 2), jnp.int32)
    return dict(self.model.init(key, ids, ids, train=False))

  def initialized(self, state: TrainState) -> TrainState:
    """The state as it is."""
    return state

  def origin(self) -> dict[str, Any]:
    """What `run.json` says of the vocabulary and of what was left out."""
    return {
      'vocabulary': {
        'size': len(self.vocabulary),
        'sha256': text.digest(self.vocabulary),
      },
      'left_out': dict(self.left_out),
    }

  def train_loss(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    step: jax.Array,
    objective_state: Any,
    key: jax.Array,
  ) -> tuple[jax.Array, jax.Array, Aux]:
    """The objective of each target token, `[b * T]`."""
    logits, outputs = self.model.apply(
      {'params': variables['params']},
      batch['source'],
      batch['target'],
      train=True,
      rngs={'drop_path': key},
    )
    size = batch['target'].size * len(self.vocabulary)
    if self.fused and size >= fused.FUSED_FROM:
      # Nobody looks at the logits, so XLA does not compute them.
      features = outputs['penultimate']
      dtype = self.config.model.get('dtype', 'float32')
      table = variables['params']['embedding'].astype(dtype)
      labels = batch['target'].reshape(-1)
      mask = labels != text.PAD
      values, sums, objective_state = fused.losses_and_sums(
        self.objective,
        objective_state,
        features.reshape(len(labels), -1).astype(dtype),
        table,
        labels,
        mask=mask,
        step=step,
        transposed=True,
      )
    else:
      logits, labels, mask = _tokens(logits, batch['target'])
      values, objective_state = self.objective.apply(
        objective_state, logits, labels, step=step, where=mask
      )
      sums = metrics.classification_sums(logits, labels, mask)
    sums['filled'] = (mask.sum(), jnp.asarray(mask.size))
    return values, mask, Aux(sums, {}, objective_state)

  def eval_sums(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    step: jax.Array,
    objective_state: Any,
    temperature: jax.typing.ArrayLike | None = None,
  ) -> Sums:
    """Sums of the metrics of the next token after each true beginning.

    `classification` holds (sum, count) pairs, `calibration` the sums per
    confidence bin and, where the truth is known, `truth` those of
    `truth_sums`. A temperature divides the logits.
    """
    logits, _ = self.model.apply(
      {'params': variables['params']}, batch['source'], batch['target']
    )
    if temperature is not None:
      logits = logits / temperature
    logits, labels, mask = _tokens(logits, batch['target'])
    values, _ = self.objective.apply(
      objective_state, logits, labels, step=step, where=mask
    )
    sums = metrics.output_sums(logits, labels, mask)
    sums['classification']['objective'] = (values.sum(), mask.sum())
    if 'true_ids' in batch:
      # Their last axis has the tokens that may come.
      ids, chances = (
        batch[f'true_{name}'].reshape(len(labels), -1)
        for name in ('ids', 'probabilities')
      )
      sums['truth'] = truth_sums(logits, labels, ids, chances, mask)
    return sums

  def report(self, sums: Sums) -> dict[str, Any]:
    """`examples`, which are tokens here, and the means over them."""
    found = metrics.means(sums)
    found['perplexity'] = math.exp(min(found['nll'], 700.0))
    for name, (total, count) in sums.get('truth', {}).items():
      found[name] = float(total) / float(count) if count else float('nan')
    return found

  def headline(self, report: Mapping[str, Any]) -> str:
    """Accuracy, NLL and ECE, and how far from the truth, if it is known."""
    known = (
      f', KL to the truth {report["kl_to_truth"]:.4f}'
      if 'kl_to_truth' in report
      else ''
    )
    return (
      f'accuracy {report["accuracy"]:.2%}, NLL {report["nll"]:.4f}, ECE '
      f'{report["ece"]:.2%}{known}'
    )

  def train_batches(self, start_step: int) -> data.BatchIterator:
    """This process's part of the batches from a step on."""
    return text.train_batches(
      self.train, seed=self.config.seed, start_step=start_step, **_processes()
    )

  def eval_batches(self, split: str | None = None) -> data.BatchIterator:
    """This process's part of the evaluation split; shorter sentences first."""
    if split not in (None, self.eval_split):
      raise UsageError(f'split is {split!r}; expected {self.eval_split!r}')
    return text.eval_batches(self.evaluation, **_processes())

  def measurement(
    self, devices: Devices
  ) -> Callable[[Mapping[str, Any], str], Measurement]:
    """Never called: there are no `measured_splits`."""
    del devices

    def measure(variables, split):
      raise UsageError(f'translation measures nothing else of {split!r}')

    return measure


def _processes() -> dict[str, int]:
  return {
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }


def _tokens(
  logits: jax.Array, target: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Logits `[N, V]`, ids `[N]` and mask `[N]` of all positions of a batch."""
  labels = target.reshape(-1)
  return logits.reshape(len(labels), -1), labels, labels != text.PAD


def truth_sums(
  logits_NV: jax.Array,
  labels_N: jax.Array,
  ids_NC: jax.Array,
  chances_NC: jax.Array,
  mask_N: jax.Array,
) -> dict[str, tuple[jax.Array, jax.Array]]:
  r"""Compares next-token distributions q with the true ones p.

  * `kl_to_truth`: :math:`\sum_c p_c \log (p_c / q_c)` in nats;
  * `entropy`: of p, the least NLL that there can be;
  * `true_accuracy`: how probable the top token is: the accuracy without the
    chance of which token was drawn;
  * `bayes_accuracy`: that of the likeliest token, the best there can be;
  * `true_calibration`: :math:`|\max q - p_{\mathrm{argmax}\,q}|`. A bin of
    `ece` averages tokens with too much and too little confidence; this does
    not;
  * `valid_mass`: what q gives to tokens that may come;
  * `impossible`: the share of top tokens that may not come;
  * `certain_accuracy`: accuracy where one token alone may come.

  Args:
    logits_NV: float `[N, V]`.
    labels_N: int `[N]`, what was drawn.
    ids_NC: int `[N, C]`, the tokens that may come.
    chances_NC: float `[N, C]`, their probabilities; 0 for no token.
    mask_N: bool `[N]`, False for padding.

  Returns:
    A pair (sum, count) for each.

  Examples:
    >>> logits = jnp.log(jnp.array([[0.2, 0.5, 0.3]]))
    >>> ids, p = jnp.array([[1, 2]]), jnp.array([[0.75, 0.25]])
    >>> sums = truth_sums(
    ...   logits, jnp.array([1]), ids, p, jnp.array([True]))
    >>> for name in ('kl_to_truth', 'true_calibration', 'valid_mass'):
    ...   print(name, f'{float(sums[name][0]):.4f}')
    kl_to_truth 0.2585
    true_calibration 0.2500
    valid_mass 0.8000
  """
  logq_NV = jax.nn.log_softmax(logits_NV.astype(jnp.float32))
  logq_NC = jnp.take_along_axis(logq_NV, ids_NC, -1)
  may_NC = chances_NC > 0
  entropy_N = -jax.scipy.special.xlogy(chances_NC, chances_NC).sum(-1)
  cross_N = -jnp.where(may_NC, chances_NC * logq_NC, 0).sum(-1)
  top_N = logits_NV.argmax(-1)
  hit_N = jnp.where(ids_NC == top_N[:, None], chances_NC, 0).sum(-1)
  best_N = chances_NC.max(-1)
  certain_N = mask_N & (may_NC.sum(-1) == 1)
  count = mask_N.sum()

  def over_all(values_N):
    return jnp.where(mask_N, values_N, 0).sum(), count

  confidence_N = jnp.exp(logq_NV.max(-1))
  return {
    'kl_to_truth': over_all(cross_N - entropy_N),
    'entropy': over_all(entropy_N),
    'true_accuracy': over_all(hit_N),
    'bayes_accuracy': over_all(best_N),
    'true_calibration': over_all(jnp.abs(confidence_N - hit_N)),
    'valid_mass': over_all(jnp.where(may_NC, jnp.exp(logq_NC), 0).sum(-1)),
    'impossible': over_all(hit_N == 0),
    'certain_accuracy': (
      (certain_N & (top_N == labels_N)).sum(),
      certain_N.sum(),
    ),
  }


def build_translation(
  config: ConfigDict,
  *,
  data_dir: str | None = None,
  eval_split: str | None = None,
  devices: Devices | None = None,
  training: bool = True,
  model: nn.Module | None = None,
  sources: tuple[text.Pairs, text.Pairs] | None = None,
  vocabulary: text.Vocabulary | None = None,
) -> Run[Translation]:
  """Builds a run of this task; see `tasks.build`.

  Args:
    config: complete, see `resolve`.
    data_dir: where data sets of tfds are prepared.
    eval_split: evaluates another split than the configuration says.
    devices: by default all devices of all processes.
    training: False if the run is only to be evaluated.
    model: a module of your own with the contract of `Transformer`.
    sources: pairs to train on and to evaluate, in place of `config.dataset`.
    vocabulary: what was learned before; None learns it from the training pairs.

  Raises:
    UsageError: one line about the first thing that is wrong.
  """
  devices = devices or Devices()
  dataset = config.dataset

  def pairs_of(split, given):
    if sources is not None:
      return sources[given]
    with errors.within('config.dataset: '):
      languages = dataset.source_language, dataset.target_language
      return text.open_pairs(
        dataset.name, split, data_dir=data_dir, languages=languages
      )

  train_pairs = pairs_of(dataset.train_split, 0)
  eval_pairs = pairs_of(eval_split or dataset.eval_split, 1)
  with errors.within('config.dataset.'):
    if vocabulary is None:
      vocabulary = text.make_vocabulary(
        dataset.vocabulary, dataset.vocabulary_size, train_pairs
      )
  with errors.within('config: '):
    train = text.Buckets(
      text.encode(train_pairs, vocabulary),
      tuple(dataset.buckets),
      config.batch_size,
      devices.count * config.accumulate,
    )
    evaluation = _evaluation(config, eval_pairs, vocabulary, devices)
  left_out = {'empty': train_pairs.left_out, 'too_long': train.too_long}
  if training and any(left_out.values()):
    warnings.warn(
      f'{train_pairs.name}: {left_out["too_long"]:,} of {len(train_pairs):,} '
      f'pairs are left out because they have more than {train.widths[-1]} '
      f'tokens, {left_out["empty"]:,} more because a side is empty',
      stacklevel=2,
    )
  lengths = Lengths.of(config, len(train.batches))
  V = len(vocabulary)
  wanted = config.objective.to_dict()
  with errors.within('config.'):
    in_parts = fused.take(wanted)
    objective = losses.make_objective(
      wanted,
      num_classes=V,
      steps_per_epoch=lengths.steps_per_epoch,
      epochs=-(-lengths.total // lengths.steps_per_epoch),
      axis_name=AXIS,
    )
  if objective.needs:
    raise UsageError(
      f'config.objective.name is {config.objective.name!r}; expected one that '
      f'needs no {objective.needs[0]}: translation has none'
    )
  if in_parts:
    fused.check(objective)
  if config.diagnostics_every is not None:
    raise UsageError(
      f'config.diagnostics_every is {config.diagnostics_every!r}; expected '
      'None: translation has no diagnostics during training'
    )
  if model is None:
    options = config.model.to_dict()
    with errors.within('config.model: '):
      model = models.create_model(
        errors.one_of('name', options.pop('name'), models.TRANSFORMERS),
        V,
        batch_axis=AXIS,
        **options,
      )
  task = Translation(
    config=config,
    devices=devices,
    vocabulary=vocabulary,
    train=train,
    evaluation=evaluation,
    eval_pairs=eval_pairs,
    left_out=left_out,
    model=model,
    objective=objective,
    fused=in_parts,
  )
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  optimizer = config.optimizer
  return make_run(
    config,
    task,
    lengths,
    devices,
    decay_mask=models.decay_mask(
      model, (ids, ids), optimizer.decay, optimizer.decay_layers
    ),
  )


def _evaluation(
  config: ConfigDict,
  pairs: text.Pairs,
  vocabulary: text.Vocabulary,
  devices: Devices,
) -> text.Buckets:
  """Batches of every pair, also of those too long to train on."""
  encoded = text.encode(pairs, vocabulary, truth=True)
  widths, longest = tuple(config.dataset.buckets), int(encoded.lengths.max())
  if longest > widths[-1]:
    widths += (-(-longest // 8) * 8,)
  # At least one sentence for each device.
  tokens = max(config.eval_batch_size, widths[-1] * devices.count)
  return text.Buckets(encoded, widths, tokens, devices.count)
