"""Semantic segmentation: what a step computes, what an evaluation sums."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from maxsup_jax import losses, models
from maxsup_jax.diagnostics import segmentation
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import metrics
from maxsup_jax.tasks.images import ImageTask
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.task import Aux, Batch, Measurement, Sums


@dataclasses.dataclass(frozen=True)
class Segmentation(ImageTask):
  """A model that classifies pixels, and its objective; see `ImageTask`.

  Every pixel that has a label is an example. The logits are upsampled to the
  size of the labels, see `losses.pixel_loss`. The mean of the objective is over
  the pixels with a label, or over all, as `config.denominator` says, of the
  global batch. The objective of the auxiliary logits, where the model gives
  some, is added with `config.auxiliary_weight`.
  """

  scores = ('miou', 'macc', 'accuracy', 'nll', 'ece')
  measured_splits: tuple[str, ...] = ()

  @property
  def files(self) -> dict[str, bytes]:
    """Nothing: `run.json` has the names of the classes."""
    return {}

  @property
  def num_classes(self) -> int:
    """K."""
    return self.train_source.num_classes

  def train_loss(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    step: jax.Array,
    objective_state: Any,
    key: jax.Array,
  ) -> tuple[jax.Array, jax.Array, Aux]:
    """The objective of each pixel, `[b, H, W]`, or fewer with `loss_stride`.

    `auxiliary` is the objective of the auxiliary logits, without its weight,
    and `labelled` the share of the pixels that have a label. Where only the
    head learns, the model is applied as in evaluation.
    """
    config = self.config
    (logits, outputs), updates = self.model.apply(
      variables,
      self.normalize(batch['image']),
      train=not self.probes,
      mutable=['batch_stats'],
      rngs={'drop_path': key},
    )
    shared: dict[str, Any] = {
      'step': step,
      'where': batch['mask'],
      'loss_stride': config.loss_stride,
    }
    labels = batch['label']
    found = losses.pixel_loss(
      self.objective, logits, labels, measure=_classified, **shared
    )
    where = found.valid if config.denominator == 'valid' else found.counted
    values, (_, valid, counted) = found.values, found.sums()
    sums = found.measured | {'labelled': (valid, counted)}
    if config.auxiliary_weight and 'auxiliary' in outputs:
      other = losses.pixel_loss(
        self.objective, outputs['auxiliary'], labels, **shared
      )
      sums['auxiliary'] = (other.values.sum(), where.sum())
      values += config.auxiliary_weight * other.values
    stats = updates.get('batch_stats', variables['batch_stats'])
    return values, where, Aux(sums, stats, objective_state)

  def eval_sums(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    step: jax.Array,
    objective_state: Any,
  ) -> Sums:
    """Sums over the pixels that have a label, whatever the denominator.

    `classification` holds (sum, count) pairs, `calibration` the sums per
    confidence bin and `confusion` what `confusion_counts` gives.
    """
    del objective_state
    labels = batch['label']
    logits, _ = self.apply(variables, batch['image'])
    found = losses.pixel_loss(
      self.objective,
      logits,
      labels,
      step=step,
      where=batch['mask'],
      measure=metrics.output_sums,
      predict=True,
    )
    total, valid, _ = found.sums()
    sums = found.measured
    # The class itself says more than one of the five likeliest.
    sums['classification'].pop('top5', None)
    sums['classification']['objective'] = (total, valid)
    assert found.predictions is not None
    sums['confusion'] = segmentation.confusion_counts(
      found.predictions, labels, num_classes=self.num_classes
    )
    return sums

  def report(self, sums: Sums) -> dict[str, Any]:
    """`examples`, which are pixels here, and the means over them."""
    zeros = segmentation.Confusion.init(self.num_classes)
    return scores(zeros.add(sums['confusion'])) | metrics.means(sums)

  def headline(self, report: Mapping[str, Any]) -> str:
    """mIoU, beside that of the best constant, accuracy, NLL and ECE."""
    return (
      f'mIoU {report["miou"]:.2%} (one class everywhere gives '
      f'{report["constant_miou"]:.2%}), accuracy {report["accuracy"]:.2%}, NLL '
      f'{report["nll"]:.4f}, ECE {report["ece"]:.2%}'
    )

  def measurement(
    self, devices: Devices
  ) -> Callable[[Mapping[str, Any], str], Measurement]:
    """Never called: there are no `measured_splits`."""
    del devices

    def measure(variables, split):
      raise UsageError(f'segmentation measures nothing else of {split!r}')

    return measure

  def extract_step(self, limit: int) -> Callable:
    """Logits of pixels, at most `limit` of each image.

    Returns:
      `extract_step(variables, batch) -> outputs`, to be mapped over devices,
      with one row for each pixel: `logits`, `labels`, `groups`, the number of
      its image, and `mask`. The batch has `index`, the numbers of its images.
    """

    def extract_step(variables, batch):
      logits, _ = self.apply(variables, batch['image'])
      drawn, labels = segmentation.sample_pixels(
        logits, batch['label'], batch['index'], limit=limit
      )
      labels = labels.reshape(-1)
      return {
        'logits': drawn.reshape(len(labels), -1),
        'labels': labels,
        'groups': batch['index'].repeat(drawn.shape[1]),
        'mask': labels != segmentation.IGNORED,
      }

    return extract_step


def scores(confusion: segmentation.Confusion) -> dict[str, float]:
  """What is reported of counts, with the mIoU of the most frequent class."""
  found = confusion.compute()
  return {
    'miou': found.mean_iou,
    'macc': found.mean_accuracy,
    'accuracy': found.accuracy,
    'boundary_accuracy': found.boundary_accuracy,
    'interior_accuracy': found.interior_accuracy,
    'constant_miou': confusion.constant().compute().mean_iou,
    'constant_accuracy': confusion.constant().compute().accuracy,
  }


def _classified(
  logits: jax.Array, labels: jax.Array, mask: jax.Array
) -> metrics.Sums:
  sums = metrics.classification_sums(logits, labels, mask)
  return {name: sums[name] for name in ('nll', 'accuracy')}


def check(
  task: Segmentation, wanted: Mapping[str, Any], training: bool
) -> None:
  """Refuses what this task cannot do, before anything is compiled.

  Args:
    task: to check.
    wanted: `config.objective`.
    training: whether it is to be trained, and not only to be evaluated.

  Raises:
    UsageError: for the first such thing.
  """
  config, objective = task.config, task.objective
  name = f'config.objective.name is {wanted["name"]!r}'
  state = jax.tree.leaves(jax.eval_shape(objective.init))
  if objective.whole_batch or objective.needs or state:
    raise UsageError(
      f'{name}; expected an objective of the logits and the label of each '
      'pixel alone'
    )
  if config.diagnostics_every is not None:
    raise UsageError(
      f'config.diagnostics_every is {config.diagnostics_every!r}; expected '
      'None: segmentation has no diagnostics during training'
    )
  size = min(task.image_shape[:2])
  if config.loss_stride > size:
    raise UsageError(
      f'config.loss_stride is {config.loss_stride}; expected at most {size}, '
      'the side of the training images'
    )
  # With these statistics BatchNorm after a global mean has one value an image.
  parts = config.accumulate
  if config.batch_norm == 'per_device':
    parts *= task.devices.count
  if (
    training
    and task.name in models.SEGMENTERS
    and config.batch_size // parts < 2
  ):
    raise UsageError(
      f'config.batch_size is {config.batch_size}; expected at least '
      f'{2 * parts}: BatchNorm needs two images at a time'
    )
