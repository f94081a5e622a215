"""Classification: what a step computes, and what an evaluation sums."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax import data, errors, losses, models
from maxsup_jax.data import texts
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import collapse, fused, metrics, weights
from maxsup_jax.tasks.images import ImageTask
from maxsup_jax.tasks.mixing import Mixing, mix_images, mix_labels
from maxsup_jax.tasks.teachers import Teacher, is_stored
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.state import TrainState
from maxsup_jax.training.task import Aux, Batch, Measurement, Sums

# In the work directory: the images that are not trained on.
HELD_OUT = 'held_out.txt'


@dataclasses.dataclass(frozen=True)
class Classification(ImageTask):
  """A classifier, its data and its objective; see `ImageTask`.

  Attributes:
    teacher: whose logits the objective needs, or None: also where they come
      with the training examples.
    fused: whether to train without logits in memory where they are many.
    encoder: what makes numbers of rows or texts, `data.Columns` or a
      vocabulary; None of images.
    held_out: the names of images that are not trained on, of a set that is
      divided by `config.dataset.held_out`.
  """

  teacher: Teacher | None = None
  fused: bool = False
  encoder: Any = None
  held_out: tuple[str, ...] = ()
  scores = ('accuracy', 'nll', 'ece')

  @property
  def measured_splits(self) -> tuple[str, ...]:
    """Where neural collapse is measured during training: both splits."""
    return self.splits

  @property
  def held_out_file(self) -> dict[str, bytes]:
    """The names of the examples that are held out, if any are."""
    if not self.held_out:
      return {}
    text = '\n'.join([*self.held_out, ''])
    return {HELD_OUT: text.encode(errors='surrogateescape')}

  @property
  def files(self) -> dict[str, bytes]:
    """What must stay the same: examples held out, labels, encoder, teacher."""
    found = self.held_out_file
    if isinstance(self.train_source, data.NoisyLabels):
      found['wrong_labels.csv'] = self.train_source.table()
    if self.encoder is not None:
      found[self.encoder.file] = self.encoder.content()
    if is_stored(self.config):
      origin = weights.origin_of(self.config.teacher)
      found['teacher.sha256'] = origin['sha256'].encode()
    return found

  @property
  def mixing(self) -> Mixing:
    """How training images are mixed."""
    return Mixing(**self.config.mixing)

  @property
  def groups(self) -> dict[str, tuple[int, ...]] | None:
    """Classes with many, medium and few training examples, of a long tail."""
    if self.config.dataset.imbalance is None:
      return None
    source: Any = self.train_source  # A `LongTailedSource`.
    return metrics.shot_groups(source.counts)

  @functools.cached_property
  def vectors(self) -> tuple[np.ndarray, np.ndarray]:
    """The word vectors of `config.dataset.vectors`, and which there are."""
    model: Any = self.model
    with errors.within('config.dataset.vectors: '):
      return texts.read_vectors(
        self.config.dataset.vectors, self.encoder.pieces(), model.dim
      )

  def initialized(self, state: TrainState) -> TrainState:
    """The state with the weights of `config.init_from`, or word vectors."""
    path = self.config.init_from
    if path is not None:
      if self.unit == 'texts':
        kept = Path(path) / self.encoder.file
        if not kept.exists() or kept.read_bytes() != self.encoder.content():
          raise UsageError(
            f'config.init_from: {path} does not have the vocabulary of '
            f'{self.train_name}; expected a run on the same texts'
          )
      return super().initialized(state)
    if self.config.dataset.vectors is None:
      return state
    vectors, _ = self.vectors
    table = state.params['embedding']['embedding']
    # The rows of ids that no word has stay.
    rows = jnp.arange(len(table))[:, None] < len(vectors)
    padded = np.pad(vectors, ((0, len(table) - len(vectors)), (0, 0)))
    if not isinstance(table, jax.ShapeDtypeStruct):
      table = jnp.where(rows, padded, table)
    params = {**state.params, 'embedding': {'embedding': table}}
    ema = None if state.ema is None else {**state.ema, 'params': params}
    return dataclasses.replace(state, params=params, ema=ema)

  def origin(self) -> dict[str, Any]:
    """As of all images, and how many words have a vector."""
    found = super().origin()
    # A run that resumes does not read them, nor need the file be there.
    if 'vectors' in vars(self):
      _, known = self.vectors
      found['vectors'] = {'words': int(known.sum()), 'of': len(known)}
    return found

  def train_loss(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    step: jax.Array,
    objective_state: Any,
    key: jax.Array,
  ) -> tuple[jax.Array, jax.Array, Aux]:
    """The objective of each image, after mixup and cutmix.

    Where images are mixed, all metrics are about the mixed images: `nll` with
    the mixed labels, `accuracy` and `top5` with their most probable class. The
    model's drop-path draws from the stream 'drop_path', keyed by `key`. Where
    only the head learns, the model is applied as in evaluation. Where
    `fused` is in force, there is no `top5`, and a label that ties for the top
    counts as correct.
    """
    images = self.normalize(batch['image'])
    labels, mask = batch['label'], batch['mask']
    mixes = self.mixing.active
    if mixes:
      images, kept = mix_images(key, images, self.mixing, AXIS, mask)
    in_parts = self.fused and (
      len(labels) * self.train_source.num_classes >= fused.FUSED_FROM
    )
    up_to: contextlib.AbstractContextManager[list[jax.Array]]
    up_to = models.without_head() if in_parts else contextlib.nullcontext([])
    with up_to as seen:
      (logits, outputs), updates = self.model.apply(
        variables,
        images,
        train=not self.probes,
        mutable=['batch_stats'],
        # Flax's own dropout draws for the examples of one device.
        rngs={
          'drop_path': key,
          'dropout': jax.random.fold_in(key, jax.lax.axis_index(AXIS)),
        },
      )
    stats = updates.get('batch_stats', variables['batch_stats'])
    if in_parts:
      values, sums, objective_state = self._fused(
        variables['params']['head'],
        seen[0],
        labels,
        mask,
        step,
        objective_state,
      )
      return values, mask, Aux(sums, stats, objective_state)
    if mixes:
      labels = mix_labels(labels, kept, logits.shape[-1])
    values, objective_state = self._objective(
      variables,
      images,
      logits,
      outputs,
      {**batch, 'label': labels},
      step,
      objective_state,
    )
    sums = metrics.classification_sums(logits, labels, mask)
    return values, mask, Aux(sums, stats, objective_state)

  def eval_sums(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    step: jax.Array,
    objective_state: Any,
  ) -> Sums:
    """Sums of the metrics.

    `classification` holds (sum, count) pairs, `calibration` the sums per
    confidence bin and, of a long tail, `classes` those per class. There is no
    `objective` where the teacher's logits come with the training examples.
    """
    labels, mask = batch['label'], batch['mask']
    images = self.normalize(batch['image'])
    logits, outputs = self.apply(variables, images)
    sums = metrics.output_sums(logits, labels, mask)
    if self.teacher or 'teacher_logits' not in self.objective.needs:
      values, _ = self._objective(
        variables, images, logits, outputs, batch, step, objective_state
      )
      sums['classification']['objective'] = (values.sum(), mask.sum())
    if self.groups is not None:
      sums['classes'] = metrics.class_sums(
        logits, labels, mask, logits.shape[-1]
      )
    return sums

  def _objective(self, variables, images, logits, outputs, batch, step, state):
    inputs = {n: x for n, x in batch.items() if n == 'teacher_logits'}
    if self.teacher is not None:
      state, frozen = state
      inputs['teacher_logits'] = self.teacher.logits(frozen, images)
    if 'votes' in self.objective.needs:
      head = variables['params']['head']
      inputs['votes'] = losses.dense_votes(
        outputs['feature_map'], head['kernel'], head['bias']
      )
    values, state = self.objective.apply(
      state,
      logits,
      batch['label'],
      step=step,
      where=batch['mask'],
      **inputs,
    )
    return values, state if self.teacher is None else (state, frozen)

  def _fused(self, head, features, labels, mask, step, state):
    """Losses, sums of metrics and state, without the logits."""
    return fused.losses_and_sums(
      self.objective,
      state,
      features,
      head['kernel'],
      labels,
      mask=mask,
      step=step,
      bias=head.get('bias'),
      # As the head itself.
      precision=jax.lax.Precision.HIGHEST,
    )

  def report(self, sums: Sums) -> dict[str, Any]:
    """`examples`, and the means of `metrics.means`."""
    return metrics.means(sums, self.groups)

  def headline(self, report: Mapping[str, Any]) -> str:
    """Accuracy, NLL and ECE, and whether guessing would have been better."""
    chance = math.log(self.train_source.num_classes)
    worse = f' (chance gives {chance:.4f})' if report['nll'] > chance else ''
    return (
      f'accuracy {report["accuracy"]:.2%}, NLL {report["nll"]:.4f}{worse}, ECE '
      f'{report["ece"]:.2%}'
    )

  def measurement(
    self, devices: Devices
  ) -> Callable[[Mapping[str, Any], str], Measurement]:
    """Neural collapse and calibration of a split, see `collapse`."""
    passes = collapse.make_passes(self.apply).mapped(devices)

    def measure(variables, split):
      return collapse.measure(
        passes, variables, lambda: self.eval_batches(split), devices
      )

    return measure

  def extract_step(self) -> Callable:
    """The outputs themselves, of one device's part of a batch.

    Returns:
      `extract_step(variables, batch) -> outputs`, to be mapped over devices:
      `logits` [b, K] and, where the model gives them, `features` [b, D], what
      the head sees, float32, in evaluation mode; `labels` and `mask` are those
      of the batch.
    """

    def extract_step(variables, batch):
      logits, outputs = self.apply(variables, batch['image'])
      found = {
        'logits': logits,
        'labels': batch['label'],
        'mask': batch['mask'],
      }
      if 'penultimate' in outputs:
        found['features'] = outputs['penultimate']
      return found

    return extract_step


def check_fused(task: Classification) -> None:
  """Refuses what cannot be trained without logits.

  Raises:
    UsageError: if the objective, the labels or the classifier are others.
  """
  if not task.fused:
    return
  fused.check(task.objective)
  if task.mixing.active:
    raise UsageError(f'{fused.REFUSED}where images, and so labels, are mixed')

  def features():
    with models.without_head() as seen:
      task.init_variables(jax.random.key(0))
    return seen

  with errors.within(f'{fused.REFUSED}for {task.name!r}: '):
    if not jax.eval_shape(features):
      raise UsageError("it has no layer 'head'")


def check_vectors(task: Classification) -> None:
  """Refuses word vectors where no words are read, or where they would decay.

  Raises:
    UsageError: one line.
  """
  dataset, optimizer = task.config.dataset, task.config.optimizer
  if dataset.vectors is None:
    return
  field = f'config.dataset.vectors is {dataset.vectors!r}'
  if not isinstance(task.model, models.LSTMClassifier):
    raise UsageError(f'{field}; expected None for the model {task.name!r}')
  if dataset.vocabulary != 'words':
    raise UsageError(
      f"{field}; expected config.dataset.vocabulary='words', not "
      f'{dataset.vocabulary!r}'
    )
  decays = optimizer.weight_decay and 'embedding' in optimizer.decay
  if task.model.frozen and decays:
    raise UsageError(
      f"{field}; expected config.optimizer.decay without 'embedding', which "
      'would move what is frozen'
    )


def check_votes(task: Classification) -> None:
  """Refuses a model whose feature map cannot vote for classes.

  Raises:
    UsageError: if the classifier is not a linear layer with a bias that can be
      applied at every position.
  """
  if 'votes' not in task.objective.needs:
    return
  needs = "objective: ranking 'votes' needs"

  def init():
    image = jnp.zeros(task.form.shape, task.form.dtype)
    return task.model.init_with_output(jax.random.key(0), image, train=False)

  (_, outputs), variables = jax.eval_shape(init)
  if 'feature_map' not in outputs:
    raise UsageError(
      f'{needs} a model with a feature map; {task.name!r} has none'
    )
  head = variables['params'].get('head', {})
  if not {'kernel', 'bias'} <= set(head):
    raise UsageError(
      f'{needs} a linear classifier with a bias; that of {task.name!r} has '
      f'only {" and ".join(sorted(head)) or "other parameters"}'
    )
  channels = outputs['feature_map'].shape[-1]
  if channels != outputs['penultimate'].shape[-1]:
    raise UsageError(
      f'{needs} a classifier that applies at every position; that of '
      f'{task.name!r} does not take the {channels} channels of its feature '
      'map'
    )
