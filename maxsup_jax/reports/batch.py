"""Batches as training sees them, and the picture of one."""

import contextlib
import dataclasses
import itertools
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from maxsup_jax import data
from maxsup_jax.errors import UsageError
from maxsup_jax.reports import _style
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.tasks.mixing import mix
from maxsup_jax.training.run import Run

_NAME = 15  # characters of a class name
_CELL = 1.15  # inches
_LINE = 0.135  # inches


class Seen(NamedTuple):
  """A batch, and the images that the model gets from it.

  Attributes:
    batch: as the pipeline gives it, without padding.
    inputs: float32 `[b, H, W, C]`, normalised and mixed: what the model sees.
    labels: int `[b]`, or float32 `[b, K]` where they are mixed.
    mean: of the normalised images per channel, before they are mixed.
    std: likewise.
  """

  batch: dict[str, np.ndarray]
  inputs: np.ndarray
  labels: np.ndarray
  mean: np.ndarray
  std: np.ndarray


# ---- Reading -----------------------------------------------------------------


def read(run: Run[Classification], *, split: str, step: int) -> Seen:
  """Reads the batch of a step, and normalises and mixes it as the step does.

  Args:
    run: on one device, so that it is the global batch.
    split: 'train', or 'eval' for a batch of evaluation.
    step: of training; or the number of the batch of evaluation.

  Raises:
    UsageError: if there is no such step.
  """
  task, train = run.task, split == 'train'
  if train and step >= run.total_steps:
    raise UsageError(
      f'step is {step}; expected below {run.total_steps}, where training ends'
    )
  stream = task.train_batches(step) if train else task.eval_batches()
  with contextlib.closing(stream) as batches:
    first = 0 if train else step
    batch = next(itertools.islice(batches, first, None), None)
  if batch is None:
    size, count = run.config.eval_batch_size, len(task.eval_source)
    raise UsageError(
      f'step is {step}; {task.eval_source.name} has only '
      f'{-(-count // size)} batches of {size}'
    )
  mask, labels = batch['mask'], jnp.asarray(batch['label'])
  inputs: Any = task.normalize(jnp.asarray(batch['image']))
  real = np.asarray(inputs)[mask].astype(np.float64)
  if train and task.mixing.active:
    key = jax.random.fold_in(jax.random.key(run.config.seed), step)
    K, settings = task.train_source.num_classes, dataclasses.asdict(task.mixing)
    real_B = jnp.asarray(mask)
    inputs, labels = mix(key, inputs, labels, K, where=real_B, **settings)
  return Seen(
    {name: x[mask] for name, x in batch.items()},
    np.asarray(inputs)[mask],
    np.asarray(labels)[mask],
    real.mean((0, 1, 2)),
    real.std((0, 1, 2)),
  )


class Epochs(NamedTuple):
  """The same examples in several epochs.

  Attributes:
    originals: what the source gives.
    versions: for each example, what training sees in each epoch, not mixed.
    labels: their class ids.
    indices: their indices in the source.
  """

  originals: list[np.ndarray]
  versions: list[list[np.ndarray]]
  labels: list[int]
  indices: list[int]


def read_epochs(
  run: Run[Classification], *, epochs: Sequence[int], count: int
) -> Epochs:
  """Reads the first `count` examples of epoch 0 as other epochs change them."""
  source, config = run.task.train_source, run.config
  N, seed = len(source), config.seed

  def order(epoch):
    return data.batch_indices(N, batch_size=N, seed=seed, step=epoch)

  # The pixels depend on the epoch and the index, not on the size of the batch:
  # one by one, nothing is read but what is shown.
  single = config.copy_and_resolve_references()
  with single.unlocked():
    single.batch_size = 1
    single.dataset.update(num_threads=0, workers=0)
    if 'repeats' in single.dataset:
      single.dataset.repeats = 1
  single = dataclasses.replace(run.task, config=single)
  indices = [int(i) for i in order(0)[:count]]
  versions: list[list[np.ndarray]] = [[] for _ in indices]
  for epoch in epochs:
    position = np.argsort(order(epoch))
    for version, index in zip(versions, indices):
      first = epoch * N + int(position[index])
      with contextlib.closing(single.train_batches(first)) as batches:
        version.append(next(batches)['image'][0])
  examples = [source[i] for i in indices]
  return Epochs(
    [e['image'] for e in examples],
    versions,
    [int(e['label']) for e in examples],
    indices,
  )


# ---- Pixels and words --------------------------------------------------------


def to_pixels(
  images: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
  """The uint8 pixels of images `[..., H, W, C]` that `normalize` gave.

  Examples:
    >>> print(to_pixels(np.array([[[-2.0], [0.0], [2.0]]]), (0.5,), (0.25,)))
    [[[  0]
      [128]
      [255]]]
  """
  images = np.asarray(images, np.float64)
  unit = images * np.asarray(std) + np.asarray(mean)
  # Halves go up, whatever float32 made of them; rint goes to even.
  return np.clip(np.floor(255 * unit + 0.5 + 1e-4), 0, 255).astype(np.uint8)


def stretched(image: np.ndarray) -> np.ndarray:
  """An image of any range, float `[H, W, C]`, as uint8; a constant is grey.

  Examples:
    >>> print(stretched(np.array([[[-1.0], [0.0], [3.0]]])))
    [[[  0]
      [ 64]
      [255]]]
  """
  image = image.astype(np.float64)
  low, high = image.min(), image.max()
  if not high > low:
    return np.full(image.shape, 128, np.uint8)
  return np.floor((image - low) / (high - low) * 255 + 0.5).astype(np.uint8)


def label_text(label: Any, names: Sequence[str] | None) -> str:
  """The name of a class id, or the names of mixed ones, float `[K]`.

  Examples:
    >>> label_text(1, ['cat', 'a dog with a very long name'])
    'a dog with a v…'
    >>> print(label_text(np.array([0.25, 0.0, 0.75]), None))
    2: 75%
    0: 25%
  """

  def name(k):
    text = ' '.join((names[k] if names else str(k)).split())
    return text if len(text) <= _NAME else text[: _NAME - 1] + '…'

  if np.ndim(label) == 0:
    return name(int(label))
  weights = np.asarray(label)
  order = [int(k) for k in np.argsort(-weights, kind='stable') if weights[k]]
  if len(order) == 1:
    return name(order[0])
  return '\n'.join(f'{name(k)}: {weights[k]:.0%}' for k in order[:2])


# ---- The picture -------------------------------------------------------------


def grid(
  images: Sequence[Sequence[np.ndarray]],
  texts: Sequence[Sequence[str]],
  *,
  title: str,
  caption: str = '',
  headings: Sequence[str] = (),
) -> bytes:
  """Draws rows of images with a text under each.

  Args:
    images: rows of uint8 `[H, W, C]`, of any sizes; the last may be shorter.
    texts: of each, one line or two.
    title: lines above.
    caption: lines below.
    headings: above each column.

  Returns:
    A PNG; equal arguments give equal bytes.
  """
  C = images[0][0].shape[-1]
  if C not in (1, 3):
    raise UsageError(f'images of {C} channels cannot be shown; expected 1 or 3')
  columns = max(map(len, images))
  lines = max(text.count('\n') + 1 for row in texts for text in row)
  below = _LINE * lines + 0.08
  side = _CELL - 0.08
  cells = [
    side * min(max(i.shape[0] / i.shape[1] for i in row), 1.5) + below
    for row in images
  ]
  width = max(_CELL * columns + 0.1, 5.0)
  title, caption = _wrapped(title, width * 16), _wrapped(caption, width * 19)
  top = 0.14 * (title.count('\n') + 1) + 0.12 + (0.17 if headings else 0)
  bottom = 0.13 * (caption.count('\n') + 1) + 0.06 if caption else 0.03
  height = top + sum(cells) + bottom
  largest = max(max(i.shape[:2]) for r in images for i in r)
  with _style.quiet():
    figure = Figure((width, height))
    left = (width - _CELL * columns) / 2
    for r, row in enumerate(images):
      for c, image in enumerate(row):
        x = (left + _CELL * c + 0.04) / width
        y = 1 - (top + sum(cells[: r + 1]) - below) / height
        size = side / width, (cells[r] - below) / height
        ax = figure.add_axes((x, y, *size))
        # Small images in their pixels, large ones without aliases.
        scaling = 'nearest' if max(image.shape) <= 96 else 'antialiased'
        _style.show_image(ax, image, interpolation=scaling)
        ax.set(xticks=[], yticks=[], anchor='S')
        ax.set_xlabel(texts[r][c], fontsize=6.5, labelpad=2, linespacing=1.0)
        for spine in ax.spines.values():
          spine.set(linewidth=0.4, color='#888888')
    above = 1 - (top - 0.03) / height
    for c, heading in enumerate(headings):
      x = (left + _CELL * (c + 0.5)) / width
      text = figure.text(x, above, heading, ha='center', va='bottom')
      text.set(fontsize=8, fontweight='bold')
    figure.text(0.06 / width, 1 - 0.05 / height, title, va='top', fontsize=8)
    figure.text(0.06 / width, 0.04 / height, caption, fontsize=6.5)
    return _style.saved(figure, 220 if largest > 96 else 140)


def _wrapped(text: str, width: float) -> str:
  """Lines of at most so many characters."""
  return '\n'.join(
    line
    for paragraph in text.splitlines()
    for line in textwrap.wrap(paragraph, int(width))
  )
