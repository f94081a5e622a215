"""The measures of neural collapse, from class means, spread and weights."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics._class_sums import check_means
from maxsup_jax.errors import UsageError, one_of


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NeuralCollapse:
  r"""How far the features and the classifier have collapsed.

  Notation: :math:`\bar h_k` the class means, :math:`h_G` the global mean,
  :math:`\bar H = [\bar h_k - h_G]_k` (`[D, K]`), :math:`W = [w_k]_k` (`[D,
  K]`), :math:`\Sigma_k` the covariance of class k, :math:`\Sigma_W =
  \frac{1}{N} \sum_k n_k \Sigma_k`, :math:`\Sigma_B = \frac{1}{K} \bar H \bar
  H^T`, and :math:`E = (I - 11^T/K) / \sqrt{K - 1}`, the Gram matrix of a
  simplex ETF of norm 1. :math:`A \sim B` stands for :math:`\|A / \|A\|_F - B /
  \|B\|_F\|_F`, from 0 to 2. At full collapse all is 0 but the norms and
  `ncc_accuracy`.

  What needs weights, bias or predictions that were not given is None. NaN is
  what does not exist: everything that divides by :math:`\bar H = 0` (all class
  means equal, the trivial collapse) or :math:`W = 0`, or by no examples.

  "Guo" is the paper of label smoothing and neural collapse, "Papyan" that of
  Papyan, Han and Donoho with its notebook, "Zhu" and "Zhou" those of Zhu et
  al. (2021) and Zhou et al. (2022).

  Attributes:
    num_samples: N, the examples of the second pass.
    num_classes: K, the classes that take part: all, or for `group_by=
      'predictions'` those that were predicted at least once.
    num_dropped: classes that were never predicted, and are left out here.
    rank: how many directions the class means span: K - 1, or less.
    classes: the ids of the classes that take part, `[K]`.
    counts: their examples, `[K]`.
    nc1: :math:`\frac{1}{K} \mathrm{tr}(\Sigma_W \Sigma_B^+)` (Guo, Zhu, Zhou).
    nc1_unnormalized: the same without :math:`1/K` (Guo's and Papyan's code).
    nc1_per_class: :math:`\frac{1}{K} \mathrm{tr}(\Sigma_k \Sigma_B^+)`, `[K]`;
      their mean, weighted by `counts`, is `nc1`. Guo's code has it times K.
    nc1_correct: `nc1` of the correct predictions alone, about the same class
      means. With `group_by='predictions'` that of Guo's figures.
    nc1_wrong: the same of the wrong ones.
    num_correct: how many predictions are correct.
    num_wrong: how many are wrong.
    trace_ratio: :math:`\mathrm{tr} \Sigma_W / \mathrm{tr} \Sigma_B`.
    cdnv: the class-distance normalised variance :math:`(\mathrm{tr} \Sigma_i +
      \mathrm{tr} \Sigma_j) / (2 \|\bar h_i - \bar h_j\|^2)`, the mean over all
      pairs (Galanti et al., 2022).
    nc2: :math:`W^T \bar H \sim E`. NC2 of Guo; NC3 of Zhu, "self-duality".
    nc2_centered: the same with the weights centred over the classes. NC3 of
      Zhou.
    nc2h: :math:`\bar H^T \bar H \sim E`. Also called the ETF error.
    nc2w: :math:`W^T W \sim E`, not centred. NC2 of Zhu.
    nc2w_centered: the same with centred weights. NC2 of Zhou.
    nc3: :math:`W \sim \bar H`. NC3 of Guo.
    nc3_squared: its square. NC3 of Papyan, and in Guo's code.
    residual: :math:`\|W^T h_G + b\|_2`. NC4 of Zhu.
    equinorm_h: standard deviation over mean of :math:`\|\bar h_k - h_G\|`, with
      the denominator K - 1. NC2 of Papyan, for the features.
    equinorm_w: of :math:`\|w_k\|`, with the denominator K - 1. NC2 of Papyan,
      for the classifier; not centred.
    equiangularity_h: mean over all pairs of :math:`|\cos(\bar h_i - h_G, \bar
      h_j - h_G) + 1/(K - 1)|`. NC2 of Papyan, for the features.
    equiangularity_w: the same of :math:`w_i, w_j`, not centred.
    cosine_std_h: standard deviation over all pairs of the cosine of the class
      means: 0 where all angles are equal, whatever they are.
    cosine_std_w: the same of the weights.
    w_norm: the mean :math:`\|w_k\|`.
    h_norm: the mean :math:`\|\bar h_k - h_G\|`.
    ncc_accuracy: how often the nearest class mean is that of the label. In
      Guo's code.
    ncc_mismatch: how often the nearest class mean is not that of the class
      that the network predicts, bias included. NC4 of Papyan.
  """

  num_samples: int
  num_classes: int
  num_dropped: int
  rank: int
  classes: np.ndarray
  counts: np.ndarray
  nc1: float
  nc1_unnormalized: float
  nc1_per_class: np.ndarray
  nc1_correct: float | None = None
  nc1_wrong: float | None = None
  num_correct: int | None = None
  num_wrong: int | None = None
  trace_ratio: float
  cdnv: float
  nc2: float | None = None
  nc2_centered: float | None = None
  nc2h: float
  nc2w: float | None = None
  nc2w_centered: float | None = None
  nc3: float | None = None
  nc3_squared: float | None = None
  residual: float | None = None
  equinorm_h: float
  equinorm_w: float | None = None
  equiangularity_h: float
  equiangularity_w: float | None = None
  cosine_std_h: float
  cosine_std_w: float | None = None
  w_norm: float | None = None
  h_norm: float
  ncc_accuracy: float
  ncc_mismatch: float | None = None


GLOBAL_MEANS = ('classes', 'samples')


class BetweenClass(NamedTuple):
  r"""Class means, and the pseudo-inverse of their differences in factors.

  With :math:`\bar H = [\bar h_k - h_G]_k`, `[D, K]`, it holds the thin
  singular value decomposition :math:`\bar H^T = Z B^T`, :math:`Z = U S`, and
  never a matrix `[D, D]`. A tree of float64 arrays on the host.

  Attributes:
    count: examples of every class, `[K]`.
    means: the class means, `[K, D]`; that of a class without examples is the
      global mean.
    global_mean: :math:`h_G`, `[D]`.
    basis: B, orthonormal directions between the class means, `[D, R]`. R is
      K - 1, or less where they span less but for the rounding of the features.
    coordinates: Z, the class means in that basis, `[K, R]`.
    singular_values: S, `[R]`, in falling order, all positive.
  """

  count: np.ndarray  # type: ignore[assignment]  # not the method of tuple
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

  `epsilon` is the relative rounding of the features. Means of classes without
  examples may be anything.
  """
  one_of('global_mean', global_mean, GLOBAL_MEANS)
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


# The norm of a Gram matrix has fourth powers, which float64 has between these.
_SMALLEST, _LARGEST = 1e-60, 1e60


class Spread(NamedTuple):
  """What the second pass found, in float64 on the host.

  `count` and the sums of squared distances to the class means, plain and after
  their pseudo-inverse (`whitened`), are `[2, K]`: with a wrong and a correct
  prediction, or all in the first row. Then the examples whose nearest class
  mean is that of the label, of the prediction; and if there are predictions.
  """

  count: np.ndarray  # type: ignore[assignment]  # not the method of tuple
  square: np.ndarray
  whitened: np.ndarray
  nearest_is_label: int
  nearest_is_prediction: int
  predicted: bool


def measure(
  between: BetweenClass,
  spread: Spread,
  weights: ArrayLike | None,
  bias: ArrayLike | None,
) -> NeuralCollapse:
  """Makes the result; see `NeuralCollapse` for every formula."""
  N = int(spread.count.sum())
  if not N:
    raise UsageError('there are no examples')
  bad_K = ~np.isfinite(spread.square + spread.whitened).all(0)
  if bad_K.any():
    raise UsageError(
      f'the features of class {int(bad_K.argmax())} are not all finite, or too '
      'large to square'
    )
  weights_KD, bias_K = check_weights(weights, bias, *between.means.shape)
  kept = np.flatnonzero(between.count > 0)
  K = len(kept)
  # Equal class means have no directions, and all that divides by them is NaN.
  H_KD = (between.means - between.global_mean)[kept]
  if not len(between.singular_values):
    H_KD = np.zeros_like(H_KD)
  count_2K, square_2K, whitened_2K = (
    a[:, kept].astype(np.float64)
    for a in (spread.count, spread.square, spread.whitened)
  )
  if not H_KD.any():
    whitened_2K = np.full_like(whitened_2K, np.nan)
  count_K = count_2K.sum(0)
  # Tr(Sigma_W Sigma_B^+) / K is the mean of ||Hbar^+ (h - hbar)||^2: the K of
  # Sigma_B^+ = K (Hbar^+)^T Hbar^+ cancels.
  nc1 = float(whitened_2K.sum() / N)
  trace_K = _ratio(square_2K.sum(0), count_K)
  within = float(square_2K.sum() / N)
  trace_between = float(np.square(H_KD).sum() / K)
  of_means = _geometry(H_KD, 'h')
  of_predictions: dict[str, Any] = {}
  if spread.predicted:
    wrong, correct = _ratio(whitened_2K.sum(1), count_2K.sum(1)).tolist()
    of_predictions = {
      'nc1_correct': correct,
      'nc1_wrong': wrong,
      'num_correct': int(count_2K[1].sum()),
      'num_wrong': int(count_2K[0].sum()),
      'ncc_mismatch': 1 - spread.nearest_is_prediction / N,
    }
  return NeuralCollapse(
    num_samples=N,
    num_classes=K,
    num_dropped=len(between.count) - K,
    rank=len(between.singular_values),
    classes=kept,
    counts=spread.count.sum(0)[kept],
    nc1=nc1,
    nc1_unnormalized=K * nc1,
    nc1_per_class=_ratio(whitened_2K.sum(0), count_K),
    trace_ratio=float(_ratio(within, trace_between)),
    cdnv=_cdnv(H_KD, trace_K),
    nc2h=_etf_error(H_KD @ H_KD.T),
    ncc_accuracy=spread.nearest_is_label / N,
    **of_means,
    **of_predictions,
    **_of_weights(weights_KD, bias_K, H_KD, between.global_mean, kept),
  )


def check_weights(
  weights: ArrayLike | None, bias: ArrayLike | None, K: int, D: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
  """Checks `[K, D]` weights and a bias `[K]`, and makes them float64."""
  if weights is None:
    if bias is not None:
      raise UsageError('bias was given without weights')
    return None, None
  weights = checks.matrix(weights, 'weights')
  if weights.shape != (K, D):
    raise checks.wrong_shape(
      'weights', weights, f'({K}, {D}): one row per class'
    )
  check_size(weights, 'weights')
  if bias is not None:
    bias = checks.finite(bias, 'bias')
    if bias.shape != (K,):
      raise checks.wrong_shape('bias', bias, f'({K},)')
    bias = bias.astype(np.float64)
  return weights.astype(np.float64), bias


def check_size(values: np.ndarray, name: str) -> None:
  """Refuses numbers too large or all too small for their fourth powers."""
  top = float(max(values.max(), -values.min()))
  if top and not _SMALLEST <= top <= _LARGEST:
    raise UsageError(
      f'the largest absolute value of {name} is {top:.3g}; expected 0, or '
      f'from {_SMALLEST:g} to {_LARGEST:g}; scale them'
    )


def _of_weights(
  W_KD: np.ndarray | None,
  bias_K: np.ndarray | None,
  H_KD: np.ndarray,
  center_D: np.ndarray,
  kept: np.ndarray,
) -> dict[str, Any]:
  """The measures that need the weights; none without them."""
  if W_KD is None:
    return {}
  W_KD = W_KD[kept]
  centered_KD = W_KD - W_KD.mean(0)
  nc3 = _distance(W_KD, H_KD)
  residual = None
  if bias_K is not None:
    residual = float(np.linalg.norm(W_KD @ center_D + bias_K[kept]))
  return {
    'nc2': _etf_error(W_KD @ H_KD.T),
    'nc2_centered': _etf_error(centered_KD @ H_KD.T),
    'nc2w': _etf_error(W_KD @ W_KD.T),
    'nc2w_centered': _etf_error(centered_KD @ centered_KD.T),
    'nc3': nc3,
    'nc3_squared': nc3**2,
    'residual': residual,
    **_geometry(W_KD, 'w'),
  }


def _ratio(value: Any, divisor: Any) -> np.ndarray:
  """Divides; what is divided by 0 is NaN."""
  divisor = np.asarray(divisor, np.float64)
  return np.where(
    divisor > 0, value / np.where(divisor > 0, divisor, 1), np.nan
  )


def _distance(a: np.ndarray, b: np.ndarray) -> float:
  """The distance of two matrices of norm 1; NaN if one is 0."""
  return float(
    np.linalg.norm(_ratio(a, np.linalg.norm(a)) - _ratio(b, np.linalg.norm(b)))
  )


def _etf_error(gram_KK: np.ndarray) -> float:
  """The distance to the Gram matrix of a simplex ETF; NaN for one class."""
  K = len(gram_KK)
  return _distance(gram_KK, np.eye(K) - 1 / K)


def _geometry(rows_KD: np.ndarray, of: str) -> dict[str, Any]:
  """Norms of the rows, and the angles between them; no angle of one row."""
  K = len(rows_KD)
  norm_K = np.linalg.norm(rows_KD, axis=1)
  mean = norm_K.mean()
  unit_KD = _ratio(rows_KD, norm_K[:, None])
  cosine = (unit_KD @ unit_KD.T)[~np.eye(K, dtype=bool)]
  values = [math.nan] * 3
  if K > 1:
    spread = float(_ratio(norm_K.std(ddof=1), mean))
    angles = np.abs(cosine + 1 / (K - 1)).mean()
    values = [spread, float(angles), float(cosine.std())]
  names = f'equinorm_{of}', f'equiangularity_{of}', f'cosine_std_{of}'
  return {f'{of}_norm': float(mean), **dict(zip(names, values))}


def _cdnv(H_KD: np.ndarray, trace_K: np.ndarray) -> float:
  """The mean over pairs of the class-distance normalised variance."""
  gram_KK = H_KD @ H_KD.T
  norm_K = np.diag(gram_KK)
  i, j = np.triu_indices(len(H_KD), 1)
  if not len(i) or not H_KD.any():
    return float('nan')
  distance = norm_K[i] + norm_K[j] - 2 * gram_KK[i, j]
  # Of near means the difference of large numbers has lost its digits.
  near = distance < 1e-6 * (norm_K[i] + norm_K[j])
  for k in np.unique(i[near]):
    pairs = near & (i == k)
    distance[pairs] = np.square(H_KD[j[pairs]] - H_KD[k]).sum(1)
  with np.errstate(divide='ignore', invalid='ignore'):
    return float(np.mean((trace_K[i] + trace_K[j]) / (2 * distance)))
