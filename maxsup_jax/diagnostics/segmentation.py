r"""How well a model tells what every pixel is: IoU, accuracies, samples.

Everything comes from one table of counts, pixels of each class (rows) by what
is predicted for them (columns), over the whole data set: never from means over
images. Counts are whole numbers, so any split of the data over batches and
devices gives the same. Labels are integer class ids `[..., H, W]`; pixels whose
label is 255 do not count, whatever is predicted.

For class k, with I the pixels of k that are predicted as k,

.. math::
  \mathrm{IoU}_k = \frac{I_k}{\mathrm{labelled}_k + \mathrm{predicted}_k - I_k},
  \quad \mathrm{accuracy}_k = \frac{I_k}{\mathrm{labelled}_k}

A class that is neither labelled nor predicted has no IoU (NaN) and takes no
part in the mean; one that is predicted and never labelled has an IoU of 0.
These are the conventions of mmsegmentation.

>>> import numpy as np
>>> from maxsup_jax.diagnostics import segmentation
>>> labels = np.array([[0, 1, 255], [1, 2, 2]])
>>> predictions = np.array([[0, 1, 0], [0, 2, 1]])
>>> confusion = segmentation.Confusion.init(3).update(predictions, labels)
>>> scores = confusion.compute()
>>> scores.iou.round(4).tolist(), round(scores.mean_iou, 4), scores.accuracy
([0.5, 0.3333, 0.5], 0.4444, 0.6)
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.errors import UsageError, integer

# The label of pixels that do not count.
IGNORED = 255
# From here on a pixel is away from the boundary, by default.
RADIUS = 3


def near_boundary(labels: ArrayLike, radius: int = RADIUS) -> jax.Array:
  """Which pixels have another class near them.

  A pixel is near a boundary if some pixel of another class is at most `radius`
  rows and at most `radius` columns away. Pixels that do not count are no class:
  they neither make a boundary nor are near one.

  Args:
    labels: class ids `[..., H, W]`, 255 for what does not count.
    radius: in pixels.

  Returns:
    Bool `[..., H, W]`.

  Examples:
    >>> near_boundary(np.array([[0, 0, 0, 1, 255, 2]]), 1).astype(int).tolist()
    [[0, 0, 1, 1, 0, 0]]
  """
  radius = integer('radius', radius, low=0)
  classes = jnp.asarray(labels).astype(jnp.int32)
  valid = classes != IGNORED
  window, ones = 2 * radius + 1, (1,) * (classes.ndim - 2)

  def over_window(values: jax.Array, start: int, reduce: Any) -> jax.Array:
    for shape in ((window, 1), (1, window)):
      values = jax.lax.reduce_window(
        values, start, reduce, (*ones, *shape), (1,) * classes.ndim, 'SAME'
      )
    return values

  low = over_window(jnp.where(valid, classes, IGNORED), IGNORED, jax.lax.min)
  high = over_window(jnp.where(valid, classes, -1), -1, jax.lax.max)
  return valid & (low < high)


@functools.partial(jax.jit, static_argnames=('num_classes', 'radius'))
def confusion_counts(
  predictions: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  radius: int = RADIUS,
) -> jax.Array:
  """Counts pixels by label and prediction, also inside of mapped steps.

  Labels outside of `[0, num_classes)` count nowhere: `Confusion.update` refuses
  those that are not 255.

  Args:
    predictions: class ids `[..., H, W]`, in `[0, num_classes)`.
    labels: class ids, of the same shape.
    num_classes: K.
    radius: see `near_boundary`.

  Returns:
    int32 `[2, K, K]`: a row for each label, a column for each prediction; first
    of pixels away from boundaries, then of those near one.
  """
  K = num_classes
  rows = jnp.asarray(labels).astype(jnp.int32)
  columns = jnp.asarray(predictions).astype(jnp.int32)
  near = near_boundary(rows, radius).astype(jnp.int32)
  counted = (rows >= 0) & (rows < K)
  cells = (near * K + rows) * K + columns
  cells = jnp.where(counted, cells, 2 * K * K).reshape(-1)
  counts = jnp.bincount(cells, length=2 * K * K + 1)[:-1]
  return counts.astype(jnp.int32).reshape(2, K, K)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
  """What `Confusion.compute` returns: shares from 0 to 1, or NaN.

  Attributes:
    mean_iou: mIoU, the mean of `iou` over the classes that have one.
    mean_accuracy: mAcc, the mean of `class_accuracy`.
    accuracy: aAcc, of all pixels.
    boundary_accuracy: of the pixels near a boundary, see `near_boundary`.
    interior_accuracy: of the others.
    boundary_share: how many of the pixels are near a boundary.
    iou: `[K]`.
    class_accuracy: the share of each class that is found, `[K]`.
    precision: the share of what is called k that is k, `[K]`.
    pixels: of each class, int64 `[K]`.
  """

  mean_iou: float
  mean_accuracy: float
  accuracy: float
  boundary_accuracy: float
  interior_accuracy: float
  boundary_share: float
  iou: np.ndarray
  class_accuracy: np.ndarray
  precision: np.ndarray
  pixels: np.ndarray

  def rows(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """A row for each class: its name, and its numbers of the attributes."""
    K = len(self.iou)
    names = names or [f'class {k}' for k in range(K)]
    if len(names) != K:
      raise UsageError(f'names has {len(names)} names; expected {K}')
    return [
      {
        'name': names[k],
        'iou': float(self.iou[k]),
        'accuracy': float(self.class_accuracy[k]),
        'precision': float(self.precision[k]),
        'pixels': int(self.pixels[k]),
      }
      for k in range(K)
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
  """Counts over any number of batches; start with `init`.

  Attributes:
    counts: int64 `[2, K, K]`, see `confusion_counts`.
    radius: see `near_boundary`.
  """

  counts: np.ndarray
  radius: int = RADIUS

  @classmethod
  def init(cls, num_classes: int, radius: int = RADIUS) -> 'Confusion':
    """Before the first batch."""
    K = integer('num_classes', num_classes, low=2, high=IGNORED)
    return cls(np.zeros((2, K, K), np.int64), integer('radius', radius, low=0))

  def update(self, predictions: ArrayLike, labels: ArrayLike) -> 'Confusion':
    """Adds whole images, `[..., H, W]`.

    Raises:
      UsageError: if the shapes differ, or a class id is out of range.
    """
    K = self.counts.shape[1]
    said = checks.array(predictions, 'predictions')
    true = checks.array(labels, 'labels')
    if true.ndim < 2 or true.shape != said.shape:
      raise UsageError(
        f'the shapes of predictions, {said.shape}, and labels, {true.shape}, '
        'do not match; expected [..., height, width]'
      )
    flat = true.reshape(-1)
    checks.class_ids(flat, K, 'labels', flat != IGNORED)
    checks.class_ids(said.reshape(-1), K, 'predictions')
    counts = confusion_counts(said, true, num_classes=K, radius=self.radius)
    return self.add(counts)

  def add(self, counts: ArrayLike) -> 'Confusion':
    """Adds what `confusion_counts` returned, summed over devices or not."""
    added = np.asarray(counts)
    if added.shape != self.counts.shape:
      raise checks.wrong_shape('counts', added, self.counts.shape)
    # Sums of tasks are float64 on the host, which holds them exactly.
    return Confusion(self.counts + added.astype(np.int64), self.radius)

  def merge(self, other: 'Confusion') -> 'Confusion':
    """The state after the batches of both."""
    if self.radius != other.radius:
      raise UsageError(
        f'the radius is {other.radius}; expected {self.radius}, as before'
      )
    return self.add(other.counts)

  def compute(self) -> Scores:
    """The scores, in float64."""
    interior, boundary = self.counts
    correct, labelled, predicted = areas(self.counts)
    iou = _ratio(correct, labelled + predicted - correct)
    class_accuracy = _ratio(correct, labelled)
    return Scores(
      mean_iou=_mean(iou),
      mean_accuracy=_mean(class_accuracy),
      accuracy=float(_ratio(correct.sum(), labelled.sum())),
      boundary_accuracy=float(_ratio(boundary.trace(), boundary.sum())),
      interior_accuracy=float(_ratio(interior.trace(), interior.sum())),
      boundary_share=float(_ratio(boundary.sum(), self.counts.sum())),
      iou=iou,
      class_accuracy=class_accuracy,
      precision=_ratio(correct, predicted),
      pixels=labelled,
    )

  def constant(self, k: int | None = None) -> 'Confusion':
    """The counts of a model that says k everywhere: what any other must beat.

    Args:
      k: the class; None for that of the most pixels.

    Examples:
      >>> labels = np.repeat([0, 1], [90, 10]).reshape(10, 10)
      >>> confusion = Confusion.init(2).update(labels, labels)
      >>> scores = confusion.constant().compute()
      >>> scores.accuracy, scores.mean_iou
      (0.9, 0.45)
    """
    K = self.counts.shape[1]
    labelled = self.counts.sum(2)
    if k is None:
      k = int(labelled.sum(0).argmax())
    counts = np.zeros_like(self.counts)
    counts[:, :, integer('k', k, 0, K - 1)] = labelled
    return Confusion(counts, self.radius)


def areas(counts: ArrayLike) -> np.ndarray:
  """Correct, labelled and predicted pixels of every class, int64 `[3, K]`.

  All that the IoU of an image needs, for `mean_iou`.

  Args:
    counts: `[2, K, K]`, see `confusion_counts`.
  """
  total = np.asarray(counts).astype(np.int64).sum(0)
  return np.stack([total.diagonal(), total.sum(1), total.sum(0)])


def mean_iou(areas_N3K: ArrayLike, weights: ArrayLike | None = None) -> float:
  """The mean IoU of several images, for a bootstrap over images.

  Args:
    areas_N3K: what `areas` gives for each image.
    weights: how often each image counts, integers `[N]`; None for once.

  Examples:
    >>> from maxsup_jax.diagnostics import bootstrap
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 2, (30, 8, 8))
    >>> guesses = np.where(rng.random(labels.shape) < 0.8, labels, 1 - labels)
    >>> per_image = np.stack([
    ...   areas(confusion_counts(p, y, num_classes=2))
    ...   for p, y in zip(guesses, labels)
    ... ])
    >>> samples = bootstrap.bootstrap(
    ...   {'miou': lambda w: mean_iou(per_image, w)}, n=30
    ... )
    >>> low, high = bootstrap.interval(samples['miou'])
    >>> low < mean_iou(per_image) < high
    True
  """
  each = checks.array(areas_N3K, 'areas').astype(np.int64)
  if each.ndim != 3 or each.shape[1] != 3:
    raise checks.wrong_shape('areas', each, '[images, 3, classes]')
  if weights is not None:
    weights_N = checks.multiplicities(weights, len(each))
    correct, labelled, predicted = np.tensordot(weights_N, each, 1)
  else:
    correct, labelled, predicted = each.sum(0)
  return _mean(_ratio(correct, labelled + predicted - correct))


def _ratio(part: Any, whole: Any) -> np.ndarray:
  """NaN where there is nothing to divide by."""
  whole = np.asarray(whole, np.float64)
  return np.divide(
    part, whole, out=np.full(whole.shape, np.nan), where=whole > 0
  )


def _mean(values: np.ndarray) -> float:
  """Over those that are defined; NaN if none is."""
  defined = values[~np.isnan(values)]
  return float(defined.mean()) if defined.size else float('nan')


def sample_pixels(
  logits: ArrayLike,
  labels: ArrayLike,
  images: ArrayLike,
  *,
  limit: int,
  seed: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Draws pixels that count, at most `limit` of each image, on the device.

  Calibration and selective prediction of pixels need no more, and all pixels
  would not fit in memory. Which pixels are drawn depends on the labels, the
  seed and the number of the image alone: they are the same for all models, and
  for any split over batches and devices. Logits of a lower resolution are
  interpolated (bilinear, half-pixel centres) at the drawn pixels only, so the
  map of the labels' size never stands.

  >>> logits = jnp.zeros((2, 4, 4, 3)).at[:, :2, :, 1].set(5.0)
  >>> labels = jnp.full((2, 8, 8), 255).at[0, :4].set(1)
  >>> drawn, classes = sample_pixels(logits, labels, [7, 8], limit=5)
  >>> drawn.shape, classes.tolist()
  ((2, 5, 3), [[1, 1, 1, 1, 1], [255, 255, 255, 255, 255]])

  Where the label is 255 there were fewer pixels; the others are examples for
  everything that takes logits and labels:

  >>> kept = np.asarray(classes) != 255
  >>> drawn[kept].shape, np.repeat([7, 8], 5).reshape(2, 5)[kept].tolist()
  ((5, 3), [7, 7, 7, 7, 7])

  Args:
    logits: floating point `[B, h, w, K]`.
    labels: class ids `[B, H, W]`, 255 for what does not count.
    images: the number of each image in its data set, integers `[B]`.
    limit: the largest number of pixels L of an image.
    seed: chooses other pixels.

  Returns:
    Float32 logits `[B, L, K]` and int32 labels `[B, L]`; L is at most H W.
  """
  shapes = [np.shape(a) for a in (logits, labels, images)]
  if list(map(len, shapes)) != [4, 3, 1] or len({s[0] for s in shapes}) > 1:
    raise UsageError(
      f'the shapes of logits, labels and images are {shapes[0]}, {shapes[1]} '
      f'and {shapes[2]}; expected [B, h, w, K], [B, H, W] and [B]'
    )
  limit = min(integer('limit', limit, low=1), shapes[1][1] * shapes[1][2])
  key = jax.random.key(integer('seed', seed, low=0))
  arrays = map(jnp.asarray, (logits, labels, images))
  return _sample_all(limit, key, *arrays)


@functools.partial(jax.jit, static_argnums=0)
def _sample_all(
  limit: int, key: jax.Array, *arrays: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return jax.vmap(functools.partial(_sample, limit, key))(*arrays)


def _sample(
  limit: int,
  key: jax.Array,
  logits_hwK: jax.Array,
  labels_HW: jax.Array,
  image: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  flat = labels_HW.astype(jnp.int32).reshape(-1)
  # Each pixel has a number; those with the largest ones are drawn.
  bits = jax.random.bits(jax.random.fold_in(key, image), flat.shape)
  order = jnp.where(flat != IGNORED, (bits >> 1).astype(jnp.int32), -1)
  _, places = jax.lax.top_k(order, limit)
  rows, columns = jnp.divmod(places, labels_HW.shape[1])
  values = logits_hwK.astype(jnp.float32)
  at = [
    _between(index, size, new)
    for index, size, new in zip(
      (rows, columns), logits_hwK.shape, labels_HW.shape
    )
  ]
  (top, bottom, down), (left, right, across) = at
  down, across = down[:, None], across[:, None]
  upper = values[top, left] * (1 - across) + values[top, right] * across
  lower = values[bottom, left] * (1 - across) + values[bottom, right] * across
  return upper * (1 - down) + lower * down, flat[places]


def _between(
  index: jax.Array, size: int, new: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The two old pixels beside a new one, and the weight of the second."""
  at = jnp.clip((index + 0.5) * (size / new) - 0.5, 0, size - 1)
  first = jnp.floor(at).astype(jnp.int32)
  return first, jnp.minimum(first + 1, size - 1), at - first
