"""Predictions of pixels as pictures: PNG files of ids, and a figure."""

import io
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from maxsup_jax import files
from maxsup_jax.data.sources import IGNORED
from maxsup_jax.errors import UsageError, integer
from maxsup_jax.reports import _style

_CELL = 1.75  # inches
# What a legend can still show.
_MOST_NAMES = 24


def palette(num_classes: int) -> np.ndarray:
  """Colours of classes: those of Pascal VOC, which differ from each other.

  The bits of k, from the lowest on, are by turns the highest, second highest,
  ... bits of red, green and blue.

  Returns:
    uint8 `[K, 3]`.

  Examples:
    >>> palette(4).tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
  """
  k = np.arange(integer('num_classes', num_classes, 1, IGNORED))
  bits = (k[:, None] >> np.arange(8)) & 1
  colors = np.zeros((len(k), 3), int)
  for i in range(8):
    colors[:, i % 3] |= bits[:, i] << (7 - i // 3)
  return colors.astype(np.uint8)


def encode(classes: np.ndarray, colors: np.ndarray) -> bytes:
  """A PNG of class ids whose palette has the colours; 255 is white.

  `data.decoding.decode_ids` reads it back.

  Args:
    classes: uint8 `[H, W]`, each below K, or 255.
    colors: uint8 `[K, 3]`.

  Raises:
    UsageError: if a class has no colour.

  Examples:
    >>> from maxsup_jax.data import decoding
    >>> ids = np.array([[0, 2, 255]], np.uint8)
    >>> decoding.decode_ids(encode(ids, palette(3)))[0].tolist()
    [[0, 2, 255]]
  """
  table = _table(colors)
  if classes.ndim != 2 or classes.dtype != np.uint8:
    raise UsageError(
      f'classes are {classes.dtype} {list(classes.shape)}; expected uint8 '
      '[height, width]'
    )
  _check_colors(classes, colors)
  image = Image.frombytes('P', classes.shape[::-1], classes.tobytes())
  image.putpalette(table.tobytes())
  out = io.BytesIO()
  image.save(out, 'PNG')
  return out.getvalue()


def save(
  path: str | os.PathLike,
  classes: np.ndarray,
  colors: np.ndarray,
  *,
  overwrite: bool = False,
) -> None:
  """Writes what `encode` gives to a file, whole or not at all."""
  files.check_ending(path, ('.png',))
  files.refuse_existing(path, overwrite=overwrite)
  files.write(path, encode(classes, colors))


def figure(
  images: Sequence[np.ndarray],
  labels: Sequence[np.ndarray],
  predictions: Sequence[np.ndarray],
  confidences: Sequence[np.ndarray],
  *,
  names: Sequence[str] | None = None,
  colors: np.ndarray | None = None,
  titles: Sequence[str] = (),
) -> Figure:
  """Images side by side with the truth, the prediction and its confidence.

  A row for each image. Pixels that do not count are white in the truth; they
  have a prediction all the same. Of the classes that are there, the legend has
  the names, those with the most pixels first.

  Args:
    images: uint8 `[H, W, 1]` or `[H, W, 3]`.
    labels: uint8 `[H, W]`, 255 for what does not count.
    predictions: uint8 `[H, W]`.
    confidences: `[H, W]`, from 0 to 1.
    names: of the K classes; None for their numbers.
    colors: uint8 `[K, 3]`; None for `palette`.
    titles: what stands beside each row.
  """
  lengths = [len(x) for x in (images, labels, predictions, confidences)]
  if not images or len(set(lengths)) > 1:
    raise UsageError(
      f'there are {lengths} images, labels, predictions and confidences; '
      'expected as many of each, at least one'
    )
  for i, row in enumerate(zip(images, labels, predictions, confidences)):
    shapes = [list(np.shape(a)[:2]) for a in row]
    if any(shape != shapes[0] for shape in shapes):
      raise UsageError(
        f'image {i}, its labels, predictions and confidences are {shapes}; '
        'expected the same height and width'
      )
  shown = [np.asarray(m) for m in (*labels, *predictions)]
  counts = np.zeros(256, int)
  for classes in shown:
    counts += np.bincount(classes.ravel(), minlength=256)
  there = [int(k) for k in np.argsort(-counts[:IGNORED], kind='stable')]
  there = [k for k in there if counts[k]]
  if colors is None:
    K = len(names) if names else max(there, default=0) + 1
    colors = palette(K)
  table = _table(colors)
  for classes in shown:
    _check_colors(classes, colors)
  aspect = max(i.shape[0] / i.shape[1] for i in images)
  lines = -(-min(len(there), _MOST_NAMES) // 6)
  height = (_CELL * aspect + 0.1) * len(images) + 0.3 + 0.22 * lines
  with _style.quiet():
    made = Figure((4 * _CELL + 0.8, height), layout='constrained')
    axes = made.subplots(len(images), 4, squeeze=False)
    for r, row in enumerate(axes):
      for ax in row:
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
      _style.show_image(row[0], images[r])
      for ax, classes in zip(row[1:3], (labels[r], predictions[r])):
        ax.imshow(table[np.asarray(classes)], interpolation='nearest')
      row[3].imshow(
        confidences[r], cmap='viridis', vmin=0, vmax=1, interpolation='nearest'
      )
      if r < len(titles):
        row[0].set_ylabel(titles[r], fontsize=8)
    for ax, title in zip(
      axes[0], ('image', 'truth', 'prediction', 'confidence')
    ):
      ax.set_title(title, fontsize=9)
    made.colorbar(
      axes[0, 3].images[0], ax=axes, fraction=0.03, aspect=30, pad=0.01
    )
    patches = [
      Patch(
        facecolor=colors[k] / 255,
        edgecolor='#888888',
        label=names[k] if names else str(k),
      )
      for k in there[:_MOST_NAMES]
    ]
    if counts[IGNORED]:
      patches.append(
        Patch(facecolor='white', edgecolor='#888888', label='does not count')
      )
    made.legend(
      handles=patches,
      loc='outside lower left',
      ncols=6,
      fontsize=7,
      frameon=False,
    )
  return made


def _table(colors: np.ndarray) -> np.ndarray:
  """The colours of all 256 bytes."""
  colors = np.asarray(colors)
  if colors.ndim != 2 or colors.shape[1] != 3 or not 0 < len(colors) <= IGNORED:
    raise UsageError(
      f'colors has the shape {colors.shape}; expected [classes, 3], at most '
      f'{IGNORED} classes'
    )
  table = np.full((256, 3), 255, np.uint8)
  table[: len(colors)] = colors
  return table


def _check_colors(classes: np.ndarray, colors: np.ndarray) -> None:
  largest = np.asarray(classes)[np.asarray(classes) != IGNORED].max(initial=0)
  if largest >= len(colors):
    raise UsageError(
      f'colors has {len(colors)} colours; expected one for the class {largest}'
    )
