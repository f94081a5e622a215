"""Semantic segmentation: pixels as examples."""

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.errors import UsageError


def pool_pixels(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  ignore_label: int | None = 255,
  limit: int | None = None,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Makes one example of every labelled pixel, of all images together.

  Neighbouring pixels are not independent: a bootstrap over pixels is too
  narrow.

  Args:
    logits: floating point `[..., K]`, for example `[B, H, W, K]`, at the
      resolution of the labels. A single logit z, `[..., 1]`, stands for
      `(-z/2, z/2)`.
    labels: class ids, integer `[...]`.
    ignore_label: the label of pixels that do not count; their logits may be
      anything, also NaN. None: all count.
    limit: how many pixels to keep at most, drawn without replacement. They
      depend on the labels and the seed only, so that all models are measured on
      the same pixels.
    seed: of the draw.

  Returns:
    Logits `[M, K]` and int64 labels `[M]`, in the order of the input.

  Raises:
    UsageError: if the shapes do not fit, if no pixel counts, for a wrong limit
      or seed, and for a wrong dtype, NaN, infinity or a label outside `[0, K)`
      among those that do.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import selective
    >>> logits = np.zeros((2, 2, 2, 3), np.float32)
    >>> labels = np.array([[[0, 1], [255, 2]], [[2, 255], [255, 0]]])
    >>> pixel_logits, pixel_labels = selective.pool_pixels(logits, labels)
    >>> print(pixel_logits.shape, pixel_labels)
    (5, 3) [0 1 2 2 0]

  References:
    Xia et al., `Towards Understanding Why Label Smoothing Degrades Selective
    Classification and How to Fix It <https://arxiv.org/abs/2403.14715>`_, 2025,
    and its code, which keeps 5,000 random pixels of every 12 images.
  """
  logits = _checks.array(logits, 'logits')
  labels = _checks.array(labels, 'labels')
  if logits.ndim < 2 or logits.shape[:-1] != labels.shape:
    raise UsageError(
      f'the shapes of logits, {logits.shape}, and labels, {labels.shape}, do '
      'not fit; expected [..., classes] and [...]'
    )
  labels = labels.reshape(-1)
  if ignore_label is None:
    kept = np.arange(labels.size)
  else:
    kept = np.flatnonzero(labels != ignore_label)
  if not kept.size:
    raise UsageError('no pixel is labelled')
  if limit is not None:
    seed = _checks.seed(seed)
    limit = _checks.at_least(limit, 'limit', 1)
    if limit < kept.size:
      rng = np.random.default_rng(seed)
      kept = np.sort(rng.choice(kept, limit, replace=False))
  return _checks.logits_and_labels(
    logits.reshape(-1, logits.shape[-1])[kept], labels[kept], 'symmetric'
  )
