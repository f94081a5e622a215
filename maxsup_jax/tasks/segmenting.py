"""Evaluates a run of segmentation at the size of the images."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from maxsup_jax import errors
from maxsup_jax.diagnostics.segmentation import IGNORED, Confusion
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import inference, metrics
from maxsup_jax.tasks.loading import LoadedRun
from maxsup_jax.tasks.segmentation import Segmentation, scores

# Operations that leave the whole image, in another resolution.
_WHOLE = ('resize', 'resize_exact', 'resize_within', 'standardize')


@dataclasses.dataclass(frozen=True)
class Protocol:
  """How the network sees an image, see `tasks.inference`.

  Attributes:
    scale: the (long, short) rectangle that images are scaled into, at first;
      None shows them as the run's `eval_transform` gives them.
    views: 'one', or six scales, each mirrored, too, as a version of
      mmsegmentation has them: a key of `inference.PROTOCOLS`. 'mmseg0' needs
      `scale`.
    crop: the side of windows; None shows whole images.
    stride: of the windows; None for two thirds of `crop`.
  """

  scale: tuple[int, int] | None = None
  views: str = 'one'
  crop: int | None = None
  stride: int | None = None

  def __post_init__(self) -> None:
    errors.one_of('views', self.views, ('one', *inference.PROTOCOLS))
    if self.scale is not None:
      if len(self.scale) != 2:
        raise UsageError(
          f'scale is {self.scale}; expected two numbers, (long, short)'
        )
      for side in self.scale:
        errors.integer('scale', side, 1, 2**14)
    if self.views == 'mmseg0' and self.scale is None:
      raise UsageError("views is 'mmseg0', which needs scale, as (2048, 512)")
    if self.views == 'mmseg1' and self.scale is not None:
      raise UsageError(
        "views is 'mmseg1', whose scales are of the image; expected no scale"
      )
    if self.crop is not None:
      errors.integer('crop', self.crop, 1)
    if self.stride is not None:
      if self.crop is None:
        raise UsageError('stride is given; expected crop beside it')
      errors.integer('stride', self.stride, 1, self.crop)


class Predicted(NamedTuple):
  """An image, and what a run says of it.

  Attributes:
    image: uint8 `[H, W, C]`, as the data set has it.
    labels: uint8 `[H, W]`, 255 for what does not count.
    classes: uint8 `[H, W]`.
    confidence: float32 `[H, W]`.
  """

  image: np.ndarray
  labels: np.ndarray
  classes: np.ndarray
  confidence: np.ndarray


def predict(loaded: LoadedRun, protocol: Protocol) -> Iterator[Predicted]:
  """Classifies every pixel of every image of the split, one by one.

  Every size of what the network sees is a program of its own: with windows
  there is one, but for images that are smaller.

  Args:
    loaded: a run of segmentation, in a single process.
    protocol: how the network sees an image.

  Raises:
    UsageError: if the run's `eval_transform` leaves out or adds pixels, and
      there is no `scale`.
  """
  task = _segmentation_of(loaded)
  if protocol.scale is None:
    for operation in task.eval_transform.operations:
      if operation.name not in _WHOLE:
        raise UsageError(
          f'the eval_transform of the run has {operation.name}, which does '
          'not keep the whole image; set scale, as (2048, 512)'
        )
  variables = jax.device_put(loaded.variables)
  apply = jax.jit(lambda variables, images: task.apply(variables, images)[0])

  def network(images: np.ndarray) -> jax.Array:
    found: jax.Array = apply(variables, images)
    return found

  for example in (task.eval_source[i] for i in range(len(task.eval_source))):
    image, labels = example['image'], example['label']
    options: dict[str, Any] = {
      'crop': protocol.crop,
      'stride': protocol.stride,
      'protocol': 'mmseg1',
    }
    shown = image
    if protocol.scale is None:
      shown = task.eval_transform(image)
    else:
      options |= {'protocol': 'mmseg0', 'scale': protocol.scale}
    if protocol.views != 'one':
      options |= {'ratios': inference.RATIOS, 'flip': True}
    seen = list(inference.passes(network, shown, **options))
    yield Predicted(image, labels, *inference.classes(seen, labels.shape))


class Evaluation:
  """Adds up what `predict` gives.

  Args:
    num_classes: K.
  """

  def __init__(self, num_classes: int):
    self.confusion = Confusion.init(num_classes)
    self.images = 0
    self._bins = np.zeros((3, metrics.ECE_BINS))

  def add(self, found: Predicted) -> None:
    """Adds an image."""
    self.confusion = self.confusion.update(
      found.classes[None], found.labels[None]
    )
    self.images += 1
    real = found.labels != IGNORED
    confidence = found.confidence[real].astype(np.float64)
    edges = np.linspace(0, 1, metrics.ECE_BINS + 1)[1:-1]
    at = np.searchsorted(edges, confidence, side='left')
    right = (found.classes == found.labels)[real]
    for row, weights in zip(self._bins, (None, right, confidence)):
      row += np.bincount(at, weights, metrics.ECE_BINS)

  def report(self) -> dict[str, float]:
    """The scores of a report of training, but for NLL and objective."""
    names = 'count', 'correct', 'confidence'
    return {
      'images': self.images,
      'examples': int(self._bins[0].sum()),
      **scores(self.confusion),
      'ece': metrics.expected_calibration_error(dict(zip(names, self._bins))),
    }

  def table(self, names: Sequence[str] | None = None) -> str:
    """A line for each class: IoU, accuracy, precision, share of the pixels."""
    rows = self.confusion.compute().rows(names)
    total = max(sum(row['pixels'] for row in rows), 1)
    width = max(len('class'), *(len(row['name']) for row in rows))
    columns = ('IoU', 'accuracy', 'precision', 'pixels')
    lines = ['class'.ljust(width) + ''.join(f'{c:>11}' for c in columns)]
    for row in rows:
      values = row['iou'], row['accuracy'], row['precision']
      shown = [
        '-' if np.isnan(value) else f'{value:.2%}'
        for value in (*values, row['pixels'] / total)
      ]
      lines.append(
        row['name'].ljust(width) + ''.join(f'{v:>11}' for v in shown)
      )
    return '\n'.join(lines)


def _segmentation_of(loaded: LoadedRun) -> Segmentation:
  """The task of a run, which must be segmentation."""
  task = loaded.task
  if not isinstance(task, Segmentation):
    raise UsageError(
      f'{loaded.workdir.path} has a run of {loaded.run.config.task}; expected '
      'segmentation'
    )
  return task
