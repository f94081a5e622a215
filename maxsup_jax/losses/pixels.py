"""Losses of pixels from logits at a lower resolution.

The logits at the resolution of the labels, [B, H, W, K], 157 MB an image of
512x512 and 150 classes, are computed in blocks of rows, forward and, again,
backward, and never are in memory whole.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses import _checks
from maxsup_jax.losses.objectives import Objective

DENOMINATORS = ('valid', 'all')
# Logits of a block, in number: 16 MB in float32.
_BLOCK = 2**22


class PixelLosses(NamedTuple):
  """What `pixel_loss` returns.

  Attributes:
    values: the loss of every pixel, float32 `[B, H, W]`; 0 where not valid.
    valid: bool `[B, H, W]`, the pixels that have a label.
    counted: bool `[B, H, W]`, the pixels that there are: also those without a
      label.
    measured: what `measure` returned, summed over the blocks; None without.
  """

  values: jax.Array
  valid: jax.Array
  counted: jax.Array
  measured: Any = None

  def sums(self) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The sum of the losses, how many pixels are valid, and how many count."""
    return self.values.sum(), self.valid.sum(), self.counted.sum()

  def mean(self, denominator: str = 'valid') -> jax.Array:
    """The mean over the valid pixels, as PyTorch, or over 'all' that there are.

    mmsegmentation divides by all, ignored and padded pixels included, unless
    its `avg_non_ignore` is set. 0 where no pixel is in the denominator. Over
    several devices divide sums by sums instead.
    """
    errors.one_of('denominator', denominator, DENOMINATORS)
    total, valid, counted = self.sums()
    count = valid if denominator == 'valid' else counted
    return total / jnp.maximum(count, 1)


def pixel_loss(
  objective: Objective,
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  step: ArrayLike = 0,
  where: ArrayLike | None = None,
  ignore_label: int = 255,
  loss_stride: int = 1,
  block_rows: int | None = None,
  measure: Callable[[jax.Array, jax.Array, jax.Array], Any] | None = None,
) -> PixelLosses:
  r"""The objective of every pixel, on bilinearly upsampled logits.

  .. math::
    \ell\Big(\sum_{ij} A^h_{pi} A^w_{qj} z_{ij},\; y_{pq}\Big)

  with the two matrices that interpolate between the centres of positions
  (`align_corners=False` in PyTorch). A logit that only pixels without a label
  see has gradient exactly 0, also where it is NaN.

  Args:
    objective: any whose loss of a pixel does not depend on the others, and
      that needs nothing but logits and labels.
    logits: floating point `[B, h, w, K]`; computed with in float32.
    labels: class ids `[B, H, W]`, of any integer type, or distributions, float
      `[B, H, W, K]`.
    step: of training, for the schedule of the objective.
    where: bool `[B, H, W]` or `[B]`, the pixels or images that there are; None
      for all. Those in padding of the batch neither have a loss nor count.
    ignore_label: the id of pixels without a label, which have no loss but
      count. Distributions have none: mask these with `where`.
    loss_stride: only every so many-th pixel of every so many-th row has a loss,
      from the middle of the first such square on; H and W are then those of
      the pixels that have. The logits there are those of stride 1.
    block_rows: how many rows are computed at a time; None for 16 MB of logits.
      If one block is enough, nothing is computed twice.
    measure: is given logits `[N, K]` as constants, labels `[N]` or `[N, K]` and
      a mask `[N]` of the valid pixels of a block; returns sums, such as those
      of metrics.

  Returns:
    Losses per pixel, masks and sums, see `PixelLosses`.

  Raises:
    ValueError: for other shapes, and objectives that depend on a whole batch.

  Examples:
    >>> from maxsup_jax import losses
    >>> objective = losses.maxsup_objective(0.1)
    >>> logits = jnp.zeros((2, 4, 4, 3)).at[:, :, 2:, 1].set(5.0)
    >>> labels = jnp.ones((2, 16, 16), jnp.uint8).at[:, :8].set(255)
    >>> found = losses.pixel_loss(objective, logits, labels)
    >>> total, valid, counted = found.sums()
    >>> print(total.round(2), valid, counted)
    167.09 256 512
    >>> print(found.mean('valid').round(4), found.mean('all').round(4))
    0.6527 0.3263

  References:
    Long et al. 2015, *Fully convolutional networks for semantic segmentation*.
  """
  logits = _checks.in_float32(_checks.floating('logits', logits))
  if logits.ndim != 4:
    raise ValueError(f'logits have shape {logits.shape}; expected [B, h, w, K]')
  wanted = objective.needs
  if jax.tree.leaves(jax.eval_shape(objective.init)):
    wanted = 'a state', *wanted
  if objective.whole_batch:
    wanted = 'the whole batch', *wanted
  if wanted:
    raise ValueError(
      f'this objective needs {wanted[0]}; expected one of the logits and label '
      'of each pixel alone'
    )
  stride = errors.integer('loss_stride', loss_stride, 1)
  labels = jnp.asarray(labels)
  ids = _checks.class_ids(labels)
  B, _, _, K = logits.shape
  shape = (B, *labels.shape[1:3]) if ids else (B, *labels.shape[1:3], K)
  if labels.shape != shape or labels.ndim < 3:
    expected = '[B, H, W]' if ids else '[B, H, W, K]'
    raise ValueError(
      f'labels have shape {labels.shape}; expected {expected}'
      f'{_checks.of_logits(logits)}'
    )
  counted = jnp.ones(labels.shape[:3], bool)
  if where is not None:
    where = _checks.boolean('where', where)
    if where.shape not in (labels.shape[:3], (B,)):
      raise ValueError(
        f'where has shape {where.shape}; expected {labels.shape[:3]} or {(B,)}'
      )
    counted &= where if where.ndim == 3 else where[:, None, None]
  taken = slice(stride // 2, None, stride)
  rows, columns = (
    _interpolation(n, m)[taken]
    for n, m in zip(logits.shape[1:3], labels.shape[1:3])
  )
  columns = columns.astype(logits.dtype)
  labels, counted = labels[:, taken, taken], counted[:, taken, taken]
  H, W = counted.shape[1:]
  if 0 in (H, W):
    raise ValueError(
      f'loss_stride is {stride}; expected less, for labels of shape '
      f'{labels.shape}'
    )
  valid = counted
  if ids:
    valid &= labels.astype(jnp.int32) != ignore_label

  size = max(_BLOCK // (B * W * K), 1)
  if block_rows is not None:
    size = errors.integer('block_rows', block_rows, 1)
  size = min(size, H)
  starts, weights = _blocks(rows, size)
  span = weights.shape[-1]

  def block(part: tuple[jax.Array, ...]) -> tuple[jax.Array, Any]:
    start, rows_rs, labels_BrW, valid_BrW = part
    z = jax.lax.dynamic_slice_in_dim(logits, start, span, 1)
    # What no valid pixel sees would, as NaN, spread: 0 times NaN is NaN.
    mask = valid_BrW.astype(z.dtype)
    seen_Bsw = _mixed('rs,BrW,Ww->Bsw', rows_rs, mask, columns)
    z = jnp.where(seen_Bsw[..., None] > 0, z, 0)
    z = _mixed('rs,BswK->BrwK', rows_rs, z)
    z = _mixed('Ww,BrwK->BrWK', columns, z)
    values, _ = objective.apply(
      objective.init(), z, labels_BrW, step=step, where=valid_BrW
    )
    if measure is None:
      return values, None
    constant = jax.lax.stop_gradient(z).reshape(-1, K)
    flat_labels = labels_BrW.reshape(-1, *labels_BrW.shape[3:])
    return values, measure(constant, flat_labels, valid_BrW.reshape(-1))

  def split(x: jax.Array) -> jax.Array:
    """Rows in blocks, the last one filled up; blocks come first."""
    widths = [(0, 0), (0, -H % size), *[(0, 0)] * (x.ndim - 2)]
    x = jnp.pad(x, widths).reshape(B, -1, size, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  parts = starts, weights.astype(logits.dtype), split(labels), split(valid)
  if len(starts) == 1:
    values, measured = block(jax.tree.map(lambda x: x[0], parts))
    return PixelLosses(values, valid, counted, measured)
  block = jax.checkpoint(block, prevent_cse=False)
  values, measured = jax.lax.map(block, parts)
  values = jnp.moveaxis(values, 0, 1).reshape(B, -1, W)[:, :H]
  measured = jax.tree.map(lambda x: x.sum(0), measured)
  return PixelLosses(values, valid, counted, measured)


def _mixed(equation: str, *factors: Any) -> jax.Array:
  return jnp.einsum(equation, *factors, precision=jax.lax.Precision.HIGHEST)


def _interpolation(n: int, m: int) -> np.ndarray:
  """The matrix `[m, n]` of linear interpolation from n positions to m."""
  at = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
  return np.maximum(1 - abs(at[:, None] - np.arange(n)), 0)


def _blocks(rows_Hh: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
  """The rows of the matrix in blocks, without the columns of zeros around.

  Returns:
    Where the columns of each block start, and the blocks, [n, size, columns].
  """
  H, h = rows_Hh.shape
  blocks = np.pad(rows_Hh, ((0, -H % size), (0, 0))).reshape(-1, size, h)
  used = np.max(blocks, 1) > 0
  first, last = used.argmax(1), h - used[:, ::-1].argmax(1)
  span = (last - first).max()
  starts = np.minimum(first, h - span)
  return starts, np.stack([b[:, i : i + span] for i, b in zip(starts, blocks)])
