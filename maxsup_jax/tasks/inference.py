"""From a network to the class of every pixel of an image of any size.

A network is a function `predict(images) -> logits`, of uint8 `[1, h, w, C]` to
`[1, h', w', K]` of any resolution. It sees an image in one or several passes:
at several scales, mirrored, whole or in windows. The logits of a pass are
interpolated to the size that the network saw and then to that of the image
(bilinear, half-pixel centres), as mmsegmentation does; of several passes the
softmax is averaged. That happens in blocks of rows, so the maps of K classes at
the size of the image never stand whole.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax.data import resizing
from maxsup_jax.errors import UsageError, integer, number, one_of

Predict = Callable[[np.ndarray], jax.Array]

# The ratios of multi-scale testing in mmsegmentation.
RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# What a ratio is of.
PROTOCOLS: Mapping[str, str] = MappingProxyType(
  {
    'mmseg0': 'the rectangle (long, short) that images are scaled into, as in '
    'mmsegmentation 0.x, by which the published scores are',
    'mmseg1': 'the image itself, as in mmsegmentation 1.x with test-time '
    'augmentation',
  }
)


class Pass(NamedTuple):
  """What the network said about an image once.

  Attributes:
    logits: float `[h, w, K]`.
    size: height and width of what it saw.
    mirrored: whether that was the mirror image.
  """

  logits: jax.Array
  size: tuple[int, int]
  mirrored: bool = False


def window_starts(size: int, crop: int, stride: int) -> list[int]:
  """Where windows begin along one side; the last one is flush with the end.

  Examples:
    >>> window_starts(10, crop=4, stride=3), window_starts(11, 4, 3)
    ([0, 3, 6], [0, 3, 6, 7])
    >>> window_starts(3, crop=4, stride=3)
    [0]
  """
  size, crop = integer('size', size, low=1), integer('crop', crop, low=1)
  stride = integer('stride', stride, 1, crop)
  count = max(size - crop + stride - 1, 0) // stride + 1
  return [max(min(i * stride + crop, size) - crop, 0) for i in range(count)]


def slide(
  predict: Predict, images: np.ndarray, crop: int, stride: int
) -> jax.Array:
  """Logits of square windows, averaged where they overlap.

  All windows have one size, so the network is compiled once for all images
  whose sides are at least `crop`; of a smaller side the window is all of it.

  Args:
    predict: the network.
    images: `[B, H, W, C]`.
    crop: the side of the windows, in pixels.
    stride: from one to the next, at most `crop`.

  Returns:
    Float32 `[B, H, W, K]`.

  Examples:
    >>> images = np.arange(20, dtype=np.float32).reshape(1, 4, 5, 1)
    >>> np.array_equal(slide(lambda x: x, images, crop=3, stride=2), images)
    True
  """
  B, H, W, _ = images.shape
  total, count = None, np.zeros((H, W, 1), np.float32)
  for top in window_starts(H, crop, stride):
    for left in window_starts(W, crop, stride):
      window = images[:, top : top + crop, left : left + crop]
      logits = _resized(jnp.asarray(predict(window)), window.shape[1:3])
      if total is None:
        total = jnp.zeros((B, H, W, logits.shape[-1]), jnp.float32)
      total = _added(total, logits, top, left)
      count[top : top + crop, left : left + crop] += 1
  assert total is not None
  return total / count


@jax.jit
def _added(
  total: jax.Array, window: jax.Array, top: jax.Array, left: jax.Array
) -> jax.Array:
  """Adds a window at a place, which does not compile anew."""
  start = (0, top, left, 0)
  there = jax.lax.dynamic_slice(
    total, start, (*window.shape[:3], total.shape[3])
  )
  return jax.lax.dynamic_update_slice(total, there + window, start)


def view_sizes(
  height: int,
  width: int,
  *,
  protocol: str = 'mmseg0',
  ratios: Sequence[float] = (1.0,),
  scale: tuple[int, int] = (2048, 512),
) -> list[tuple[int, int]]:
  """The (long, short) rectangles that an image is scaled into, one per ratio.

  Args:
    height: of the image.
    width: of the image.
    protocol: a key of `PROTOCOLS`.
    ratios: of each pass.
    scale: (long, short) at ratio 1, for `mmseg0`.

  Examples:
    >>> view_sizes(300, 400, ratios=(0.5, 1.0))
    [(1024, 256), (2048, 512)]
    >>> view_sizes(300, 401, protocol='mmseg1', ratios=(0.5, 1.0))
    [(201, 150), (401, 300)]
  """
  one_of('protocol', protocol, PROTOCOLS)
  if not ratios:
    raise UsageError('ratios is empty; expected at least one')
  for ratio in ratios:
    number('ratios', ratio, above=0, high=100)
  if protocol == 'mmseg0':
    return [(int(scale[0] * r), int(scale[1] * r)) for r in ratios]
  long, short = max(height, width), min(height, width)
  return [(int(long * r + 0.5), int(short * r + 0.5)) for r in ratios]


def passes(
  predict: Predict,
  image: np.ndarray,
  *,
  protocol: str = 'mmseg0',
  ratios: Sequence[float] = (1.0,),
  scale: tuple[int, int] = (2048, 512),
  flip: bool = False,
  crop: int | None = None,
  stride: int | None = None,
) -> Iterator[Pass]:
  """Shows an image to the network at every scale, and mirrored if wished.

  Args:
    predict: the network.
    image: uint8 `[H, W, C]`.
    protocol: see `view_sizes`.
    ratios: see `view_sizes`; `RATIOS` are the usual six.
    scale: see `view_sizes`.
    flip: whether to add the mirror image at every scale.
    crop: the side of windows; None shows whole images.
    stride: of the windows; None for two thirds of `crop`, rounded down.
  """
  for long, short in view_sizes(
    *image.shape[:2], protocol=protocol, ratios=ratios, scale=scale
  ):
    view = resizing.resize_within(image, max(long, 1), max(short, 1))
    for mirrored in (False, True) if flip else (False,):
      shown = np.ascontiguousarray(view[:, ::-1] if mirrored else view)[None]
      if crop is None:
        logits = predict(shown)
      else:
        logits = slide(predict, shown, crop, stride or max(1, crop * 2 // 3))
      yield Pass(jnp.asarray(logits)[0], view.shape[:2], mirrored)


def classes(
  seen: Sequence[Pass], size: tuple[int, int], *, rows: int = 64
) -> tuple[np.ndarray, np.ndarray]:
  """The class of every pixel: the largest mean softmax of all passes.

  Args:
    seen: what `passes` gave for an image.
    size: its height and width.
    rows: of pixels that are computed at once.

  Returns:
    The classes, uint8 `[H, W]`, and their mean softmax probability, float32
    `[H, W]`.

  Examples:
    >>> logits = jnp.array([[[0.0, 9.0], [9.0, 0.0]]])
    >>> found, confidence = classes([Pass(logits, (1, 2))], (2, 4))
    >>> found.tolist(), bool(confidence.min() > 0.98)
    ([[1, 1, 0, 0], [1, 1, 0, 0]], True)
  """
  if not seen:
    raise UsageError('there are no passes')
  K = seen[0].logits.shape[-1]
  if K > 255:
    raise UsageError(f'there are {K} classes; expected at most 255')
  height, width = size
  rows = min(integer('rows', rows, low=1), height)
  maps: list[jax.Array] = []
  down: list[np.ndarray] = []
  across: list[np.ndarray] = []
  for one in seen:
    # Mirroring the small map is mirroring the large one.
    maps.append(one.logits[:, ::-1] if one.mirrored else one.logits)
    for axis, (new, matrices) in enumerate(((height, down), (width, across))):
      first = resize_matrix(maps[-1].shape[axis], one.size[axis])
      matrices.append(resize_matrix(one.size[axis], new) @ first)
  found = np.empty(size, np.uint8)
  confidence = np.empty(size, np.float32)
  for start in range(0, height, rows):
    start = min(start, height - rows)
    part = slice(start, start + rows)
    found[part], confidence[part] = _block_classes(
      maps, [m[part] for m in down], across
    )
  return found, confidence


@jax.jit
def _block_classes(
  maps: list[jax.Array], down: list[np.ndarray], across: list[np.ndarray]
) -> tuple[jax.Array, jax.Array]:
  mean = functools.reduce(
    jnp.add,
    (jax.nn.softmax(_through(*one)) for one in zip(maps, down, across)),
  ) / len(maps)
  return mean.argmax(-1).astype(jnp.uint8), mean.max(-1)


def _through(
  logits: jax.Array, down: np.ndarray, across: np.ndarray
) -> jax.Array:
  """Interpolates `[..., h, w, K]` with matrices `[H, h]` and `[W, w]`."""
  return jnp.einsum(
    'Hh,...hwK,Ww->...HWK',
    down,
    logits.astype(jnp.float32),
    across,
    precision=jax.lax.Precision.HIGHEST,
  )


def _resized(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
  if logits.shape[1:3] == size:
    return logits.astype(jnp.float32)
  down, across = map(resize_matrix, logits.shape[1:3], size)
  return _through(logits, down, across)


@functools.lru_cache(maxsize=64)
def resize_matrix(size: int, new: int) -> np.ndarray:
  """The matrix of bilinear interpolation along one axis, float32 `[new, size]`.

  Half-pixel centres, the ends continued, no antialiasing: what PyTorch's
  `interpolate(align_corners=False)` does.

  Examples:
    >>> resize_matrix(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
  """
  at = np.clip((np.arange(new) + 0.5) * (size / new) - 0.5, 0, size - 1)
  first = np.floor(at).astype(int)
  matrix = np.zeros((new, size), np.float32)
  i = np.arange(new)
  np.add.at(matrix, (i, first), 1 - (at - first))
  np.add.at(matrix, (i, np.minimum(first + 1, size - 1)), at - first)
  matrix.flags.writeable = False
  return matrix
