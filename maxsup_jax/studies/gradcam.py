"""Grad-CAM maps of trained networks, side by side on the same images."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence

import jax
import numpy as np

from maxsup_jax import errors, files, models
from maxsup_jax.data import resizing
from maxsup_jax.data.decoding import decode
from maxsup_jax.diagnostics import gradcam
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import LoadedRun
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.tasks.config import check_images, check_task


@dataclasses.dataclass(frozen=True)
class Network:
  """A trained network and the layer whose output is weighted.

  `map_size` are height and width of that output, of the patches for a ViT.
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
    title: what stands above it.
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
  """The images of a figure, where each comes from, and the labels known.

  `pixels` are uint8 `[R, H, W, C]`, or float32 where the runs standardise
  images one by one.
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
      a ViT. One that gives no map is refused before anything is compiled.
  """
  check_task(loaded.run.config)
  check_images(loaded.workdir)
  task = loaded.task
  if layer is None:
    layer = models.saliency_layer(task.model)
  H, W, C = task.eval_shape
  images = jax.ShapeDtypeStruct((1, H, W, C), np.float32)
  apply = models.at_layer(task.model, layer)
  _, out = jax.eval_shape(apply, loaded.variables, images)
  if out.ndim == 4:
    return Network(name, loaded, layer, out.shape[1:3])
  if isinstance(task.model, models.ViT):
    size = H // task.model.patch_size, W // task.model.patch_size
    if out.ndim == 3 and out.shape[1] == 1 + math.prod(size):
      return Network(name, loaded, layer, size)
  raise UsageError(
    f'the output of layer {layer!r} has the shape {list(out.shape)}; expected '
    '[B, h, w, C], or the tokens of a ViT, [B, T, C]'
  )


def check_agree(networks: Sequence[Network], *, by_index: bool) -> None:
  """Refuses networks that do not see the same images."""
  first = networks[0]
  for other in networks[1:]:
    a, b = first.task, other.task
    for what, x, y in (
      ('shape of the images', list(a.eval_shape), list(b.eval_shape)),
      ('transform', a.eval_transform.text, b.eval_transform.text),
    ):
      if x != y:
        raise UsageError(
          f'the {what} of {first.name} is {x!r}, that of {other.name} {y!r}, '
          'so their maps cannot be compared'
        )
    sources = a.eval_source.name, b.eval_source.name
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
  """
  source = task.eval_source
  found: list[tuple[np.ndarray, str, int | None]] = []
  names = source.label_names
  for item in items:
    if not is_index(item):
      found.append((_read_file(item, task), pathlib.Path(item).name, None))
      continue
    index = int(item)
    if not 0 <= index < len(source):
      raise UsageError(
        f'images: {index} is not an index of {source.name}; expected from '
        f'0 to {len(source) - 1}'
      )
    example = source[index]
    label = int(example['label'])
    title = f'#{index}: {names[label] if names else label}'
    found.append((task.eval_transform(example['image'], None), title, label))
  pixels, titles, labels = zip(*found)
  return Images(np.stack(pixels), titles, labels)


def _read_file(path: str, task: Classification) -> np.ndarray:
  with errors.within('images: '):
    files.refuse_irregular(path)
  try:
    image = decode(pathlib.Path(path).read_bytes(), task.eval_shape[-1])
  except (OSError, UsageError) as e:
    reason = getattr(e, 'strerror', None) or e
    raise UsageError(f'images: {path} cannot be read: {reason}') from None
  if task.eval_source.image_shape is not None:
    # The transform expects the size of the split.
    image = _covering(image, *task.eval_source.image_shape[:2])
  return task.eval_transform(image, None)


def _covering(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Scales an image to cover a size, and crops it to that at its centre."""
  H, W, _ = image.shape
  scale = max(height / H, width / W)
  size = max(height, round(H * scale)), max(width, round(W * scale))
  image = resizing.resize_exact(image, *size, interpolation='area')
  top, left = (size[0] - height) // 2, (size[1] - width) // 2
  return image[top : top + height, left : left + width]


def targets(
  target: str, labels: Sequence[int | None], networks: Sequence[Network]
) -> np.ndarray | None:
  """The classes of a target: ids `[R]`, or None for those predicted."""
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
  """Computes the maps of one network for the classes that `targets` gives."""
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
      None if y is None else bool(k == y)
      for k, y in zip(predicted, images.labels)
    ],
    explained=[names[k] for k in explained],
  )


def caption(networks: Sequence[Network], target: str) -> str:
  """What the figure shows, and of which layers and checkpoints."""
  known = {'predicted': 'the predicted class', 'label': "the label's class"}
  what = known.get(target, f'class {target}')
  layers = '; '.join(
    f'{r.name}: {r.layer} ({r.map_size[0]}x{r.map_size[1]}) of '
    f'{r.task.name}, {r.task.config.objective.name}, step {r.loaded.step:,}'
    for r in networks
  )
  return f'Grad-CAM of {what}, enlarged bilinearly. {layers}.'
