"""Grad-CAM maps of trained networks, side by side on the same images."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from maxsup_jax import models
from maxsup_jax.data import resizing
from maxsup_jax.data.decoding import decode
from maxsup_jax.diagnostics import gradcam
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import LoadedRun
from maxsup_jax.tasks.classification import Classification


@dataclasses.dataclass(frozen=True)
class Network:
  """A trained network and the layer that is looked at.

  Attributes:
    name: what the figure calls it.
    loaded: its run.
    layer: whose output is weighted.
    map_size: height and width of that output, of the patches for a ViT.
  """

  name: str
  loaded: LoadedRun
  layer: str
  map_size: tuple[int, int]

  @property
  def task(self) -> Classification:
    """The model and the data."""
    return self.loaded.task

  @property
  def class_names(self) -> Sequence[str]:
    """The names of the classes, or their ids."""
    source = self.task.eval_source
    return source.label_names or [str(k) for k in range(source.num_classes)]


@dataclasses.dataclass(frozen=True)
class Column:
  """What one network makes of the images.

  Attributes:
    title: what stands above the column.
    maps: `[R, H, W]`, at least 0, of the size of the images; not normalised.
    predicted: the names of the R predicted classes.
    confidence: their probabilities, `[R]`.
    correct: whether each prediction is right; None where that is not known.
    explained: the names of the R classes that the maps show evidence for.
  """

  title: str
  maps: np.ndarray
  predicted: Sequence[str]
  confidence: Sequence[float]
  correct: Sequence[bool | None]
  explained: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Images:
  """The images of a figure.

  Attributes:
    pixels: uint8 `[R, H, W, C]`, or float32 where the runs standardise images
      one by one.
    titles: where each comes from.
    labels: class ids, or None where it is not known.
  """

  pixels: np.ndarray
  titles: tuple[str, ...]
  labels: tuple[int | None, ...]

  @property
  def visible(self) -> np.ndarray:
    """uint8; standardised images are spread over 0 to 255 one by one."""
    if self.pixels.dtype == np.uint8:
      return self.pixels
    low, high = (
      f(self.pixels, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max)
    )
    unit = (self.pixels - low) / np.maximum(high - low, 1e-12)
    return np.rint(unit * 255).astype(np.uint8)


def network(loaded: LoadedRun, name: str, layer: str | None = None) -> Network:
  """Chooses the layer of a run.

  Args:
    loaded: from `load_run`.
    name: what the figure calls it.
    layer: whose output to weight, such as 'layer3_0' or 'block11/norm1'; by
      default the last block of a ResNet and the first norm of the last block of
      a ViT.

  Raises:
    UsageError: one line, if there is no such layer.
  """
  if layer is None:
    layer = models.saliency_layer(loaded.task.model)
  size = _map_size(loaded.task, loaded.variables, layer)
  return Network(name, loaded, layer, size)


def _map_size(
  task: Classification, variables: dict[str, Any], layer: str
) -> tuple[int, int]:
  """The size of the maps; refuses a layer without, before any compilation."""
  H, W, C = task.eval_shape
  images = jax.ShapeDtypeStruct((1, H, W, C), np.float32)
  _, out = jax.eval_shape(models.at_layer(task.model, layer), variables, images)
  if out.ndim == 4:
    return out.shape[1:3]
  if isinstance(task.model, models.ViT):
    size = H // task.model.patch_size, W // task.model.patch_size
    if out.ndim == 3 and out.shape[1] == 1 + math.prod(size):
      return size
  raise UsageError(
    f'the output of layer {layer!r} has the shape {list(out.shape)}; expected '
    '[B, h, w, C], or the tokens of a ViT, [B, T, C]'
  )


def check_agree(networks: Sequence[Network], *, by_index: bool) -> None:
  """Refuses networks that do not see the same images."""
  first = networks[0]
  for other in networks[1:]:
    shapes = [list(t.task.eval_shape) for t in (first, other)]
    if shapes[0] != shapes[1]:
      raise UsageError(
        f'the images of {first.name} are {shapes[0]}, those of {other.name} '
        f'{shapes[1]}, so their maps cannot be compared'
      )
    texts = [t.task.eval_transform.text for t in (first, other)]
    if texts[0] != texts[1]:
      raise UsageError(
        f'the transform of {first.name} is {texts[0]!r}, that of '
        f'{other.name} {texts[1]!r}, so their maps cannot be compared'
      )
    sources = [t.task.eval_source.name for t in (first, other)]
    if by_index and sources[0] != sources[1]:
      raise UsageError(
        f'{first.name} was evaluated on {sources[0]}, {other.name} on '
        f'{sources[1]}, so an index means different images; set split, or '
        'give image files'
      )


def is_index(item: str) -> bool:
  """Whether an image is given as an index rather than a file."""
  return bool(re.fullmatch(r'[+-]?\d+', item))


def read_images(items: Sequence[str], task: Classification) -> Images:
  """Reads images by index into the split that a run evaluates, or from files.

  All of them go through the run's `eval_transform`. A file is read in grey
  where the split is grey; if it does not have the size of the other images
  then, it is scaled to cover it, and cropped at its centre.

  Args:
    items: indices and paths.
    task: of one of the networks.

  Raises:
    UsageError: one line, about the first item that cannot be read.
  """
  source = task.eval_source
  pixels: list[np.ndarray] = []
  titles: list[str] = []
  labels: list[int | None] = []
  names = source.label_names
  for item in items:
    if is_index(item):
      index = int(item)
      if not 0 <= index < len(source):
        raise UsageError(
          f'images: {index} is not an index of {source.name}; expected from '
          f'0 to {len(source) - 1}'
        )
      example = source[index]
      label = int(example['label'])
      pixels.append(task.eval_transform(example['image'], None))
      titles.append(f'#{index}: {names[label] if names else label}')
      labels.append(label)
    else:
      pixels.append(_read_file(item, task))
      titles.append(pathlib.Path(item).name)
      labels.append(None)
  return Images(np.stack(pixels), tuple(titles), tuple(labels))


def _read_file(path: str, task: Classification) -> np.ndarray:
  try:
    encoded = pathlib.Path(path).read_bytes()
  except OSError as e:
    raise UsageError(f'images: {path} cannot be read: {e.strerror}') from None
  try:
    image = decode(encoded, task.eval_shape[-1])
  except UsageError as e:
    raise UsageError(f'images: {path} cannot be read: {e}') from None
  if task.eval_source.image_shape is not None:
    # The transform expects the size of the split.
    image = _covering(image, *task.eval_source.image_shape[:2])
  return task.eval_transform(image, None)


def _covering(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Scales an image to cover a size, and crops it to that at its centre."""
  scale = max(height / image.shape[0], width / image.shape[1])
  size = (
    max(height, round(image.shape[0] * scale)),
    max(width, round(image.shape[1] * scale)),
  )
  image = resizing.resize_exact(image, *size, interpolation='area')
  top, left = (size[0] - height) // 2, (size[1] - width) // 2
  return image[top : top + height, left : left + width]


def targets(
  target: str, labels: Sequence[int | None], networks: Sequence[Network]
) -> np.ndarray | None:
  """The classes of a target: ids `[R]`, or None for those predicted.

  Raises:
    UsageError: one line, for a target that is unknown or out of range.
  """
  if target == 'predicted':
    return None
  if target == 'label':
    if None in labels:
      raise UsageError(
        'target is label, which an image file does not have; expected '
        'predicted or a class id'
      )
    return np.array(labels)
  if not re.fullmatch(r'\d+', target):
    raise UsageError(
      f'target is {target!r}; expected predicted, label or a class id'
    )
  for one in networks:
    K = one.task.eval_source.num_classes
    if int(target) >= K:
      raise UsageError(
        f'target is {target}; expected from 0 to {K - 1}, the classes of '
        f'{one.name}'
      )
  return np.full(len(labels), int(target))


def column(
  network: Network, images: Images, classes: np.ndarray | None
) -> Column:
  """Computes the maps of one network.

  Args:
    network: which.
    images: what it looks at.
    classes: see `targets`.

  Returns:
    Its column of the figure.
  """
  task = network.task
  apply = models.at_layer(task.model, network.layer)

  @jax.jit
  def maps_of(variables, pixels):
    x = task.normalize(pixels)
    result = gradcam.class_gradients(
      lambda delta: apply(variables, x, delta), classes
    )
    parts = [result.activations, result.gradients]
    if result.activations.ndim == 3:
      parts = [gradcam.tokens_to_map(p, grid=network.map_size) for p in parts]
    maps = gradcam.upsample(gradcam.gradcam(*parts), pixels.shape[1:3])
    return maps, result.classes, result.logits

  maps, explained, logits = jax.device_get(
    maps_of(network.loaded.variables, images.pixels)
  )
  predicted = logits.argmax(-1)
  confidence = jax.nn.softmax(logits).max(-1)
  names = network.class_names
  return Column(
    title=network.name,
    maps=maps,
    predicted=[names[k] for k in predicted],
    confidence=[float(c) for c in confidence],
    correct=[
      None if label is None else bool(k == label)
      for k, label in zip(predicted, images.labels)
    ],
    explained=[names[k] for k in explained],
  )


def caption(networks: Sequence[Network], target: str) -> str:
  """What the figure shows, and of which layers and checkpoints."""
  what = {
    'predicted': 'the predicted class',
    'label': "the label's class",
  }.get(target, f'class {target}')
  layers = '; '.join(
    f'{r.name}: {r.layer} ({r.map_size[0]}x{r.map_size[1]}) of '
    f'{r.task.name}, {r.task.config.objective.name}, step {r.loaded.step:,}'
    for r in networks
  )
  return f'Grad-CAM of {what}, enlarged bilinearly. {layers}.'
