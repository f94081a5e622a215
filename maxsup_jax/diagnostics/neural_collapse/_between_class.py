"""The class means and their directions: what the second pass measures with."""

from typing import NamedTuple

import numpy as np

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics._class_sums import check_means

GLOBAL_MEANS = ('classes', 'samples')


class BetweenClass(NamedTuple):
  r"""Class means, and the pseudo-inverse of their differences in factors.

  With :math:`\bar H = [\bar h_k - h_G]_k`, `[D, K]`, it holds the thin
  singular value decomposition :math:`\bar H^T = Z B^T`, :math:`Z = U S`. It
  never holds a matrix `[D, D]`. A tree of float64 arrays on the host:
  `ClassMeans.compute` makes it, and `jax.device_put(between)` copies it to the
  accelerator once, in float32.

  Attributes:
    count: examples of every class, `[K]`.
    means: the class means, `[K, D]`; that of a class without examples is the
      global mean.
    global_mean: :math:`h_G`, `[D]`.
    basis: B, orthonormal directions between the class means, `[D, R]`. R is
      K - 1, or less where the class means span less: where D is less than
      K - 1, or where a singular value is within the rounding of the features.
    coordinates: Z, the class means in that basis, `[K, R]`.
    singular_values: S, `[R]`, in falling order, all positive.
  """

  count: np.ndarray
  means: np.ndarray
  global_mean: np.ndarray
  basis: np.ndarray
  coordinates: np.ndarray
  singular_values: np.ndarray


def between_class(
  count_K: np.ndarray,
  means_KD: np.ndarray,
  *,
  epsilon: float,
  global_mean: str = 'classes',
  allow_empty: bool = False,
) -> BetweenClass:
  """Takes the class means apart, on the host, in float64.

  Args:
    count_K: examples of every class.
    means_KD: class means; whatever, for a class without examples.
    epsilon: the relative rounding of the features.
    global_mean: 'classes' or 'samples'.
    allow_empty: whether classes without examples are left out.

  Returns:
    The decomposition.

  Raises:
    UsageError: one line, for an empty class, or means that are not finite.
  """
  _checks.one_of(global_mean, 'global_mean', GLOBAL_MEANS)
  present_K = check_means(count_K, means_KD, allow_empty)
  if global_mean == 'samples':
    center_D = np.average(means_KD[present_K], 0, count_K[present_K])
  else:
    center_D = means_KD[present_K].mean(0)
  means_KD = np.where(present_K[:, None], means_KD, center_D)
  centered_KD = means_KD - center_D
  U_KR, values_R, VT_RD = np.linalg.svd(centered_KD, full_matrices=False)
  # Exact means differ in at most K - 1 directions; the next singular value is
  # rounding, and so is any other one below these bounds: that of the
  # decomposition, and that of the means themselves.
  floor = epsilon * max(
    max(centered_KD.shape) * values_R[0], float(np.linalg.norm(means_KD))
  )
  R = min(int(present_K.sum()) - 1, np.count_nonzero(values_R > floor))
  return BetweenClass(
    count=count_K,
    means=means_KD,
    global_mean=center_D,
    basis=VT_RD[:R].T,
    coordinates=U_KR[:, :R] * values_R[:R],
    singular_values=values_R[:R],
  )
