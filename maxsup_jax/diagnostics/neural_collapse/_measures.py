"""From class means, spread and weights to the measures, in float64."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _checks
from maxsup_jax.diagnostics.neural_collapse._between_class import BetweenClass
from maxsup_jax.diagnostics.neural_collapse._result import NeuralCollapse
from maxsup_jax.errors import UsageError

_OF_WEIGHTS = (
  'nc2',
  'nc2_centered',
  'nc2w',
  'nc2w_centered',
  'nc3',
  'nc3_squared',
  'residual',
  'equinorm_w',
  'equinorm_w_population',
  'equiangularity_w',
  'cosine_std_w',
  'w_norm',
)
# The norm of a Gram matrix has fourth powers, which float64 has between these.
_SMALLEST, _LARGEST = 1e-60, 1e60


class Spread(NamedTuple):
  """What the second pass found, in float64 on the host.

  Attributes:
    count: examples with a wrong and with a correct prediction, `[2, K]`; all
      in the first row without predictions.
    square: sums of their squared distances to the class means, `[2, K]`.
    whitened: the same after the pseudo-inverse of the class means.
    nearest_is_label: examples whose nearest class mean is that of the label.
    nearest_is_prediction: and those where it is that of the prediction.
    predicted: whether there are predictions.
  """

  count: np.ndarray
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
  K, D = len(kept), between.means.shape[1]
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
  # tr(Sigma_W Sigma_B^+) / K is the mean of ||Hbar^+ (h - hbar)||^2: the K of
  # Sigma_B^+ = K (Hbar^+)^T Hbar^+ cancels.
  nc1 = float(whitened_2K.sum() / N)
  trace_K = _ratio(square_2K.sum(0), count_K)
  within = float(square_2K.sum() / N)
  trace_between = float(np.square(H_KD).sum() / K)
  h = _geometry(H_KD)
  h_norm = h['norm']
  of_predictions = dict.fromkeys(
    ('nc1_correct', 'nc1_wrong', 'num_correct', 'num_wrong', 'ncc_mismatch')
  )
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
    num_features=D,
    rank=len(between.singular_values),
    classes=kept,
    counts=spread.count.sum(0)[kept],
    nc1=nc1,
    nc1_unnormalized=K * nc1,
    nc1_per_class=_ratio(whitened_2K.sum(0), count_K),
    trace_ratio=float(_ratio(within, trace_between)),
    trace_within=within,
    trace_between=trace_between,
    var_cls=_ratio(trace_K, np.square(h_norm)),
    cdnv=_cdnv(H_KD, trace_K),
    nc2h=_etf_error(H_KD @ H_KD.T),
    equinorm_h=h['equinorm'],
    equinorm_h_population=h['equinorm_population'],
    equiangularity_h=h['equiangularity'],
    cosine_std_h=h['cosine_std'],
    h_norm=h_norm,
    ncc_accuracy=spread.nearest_is_label / N,
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
  weights = _checks.matrix(weights, 'weights')
  if weights.shape != (K, D):
    raise UsageError(
      f'weights has the shape {weights.shape}; expected ({K}, {D}): one row '
      'per class'
    )
  check_size(weights, 'weights')
  if bias is not None:
    bias = _checks.finite(bias, 'bias')
    if bias.shape != (K,):
      raise UsageError(f'bias has the shape {bias.shape}; expected ({K},)')
    bias = bias.astype(np.float64)
  return weights.astype(np.float64), bias


def check_size(values: np.ndarray, name: str) -> None:
  """Refuses numbers too large or all too small for their fourth powers."""
  top = float(max(values.max(), -values.min()))
  if top and not _SMALLEST <= top <= _LARGEST:
    raise UsageError(
      f'the largest of {name} is {top:.3g} in size; expected from '
      f'{_SMALLEST:g} to {_LARGEST:g}, or 0: scale them'
    )


def _of_weights(W_KD, bias_K, H_KD, center_D, kept) -> dict[str, float | None]:
  """The measures that need the weights; None without them."""
  if W_KD is None:
    return dict.fromkeys(_OF_WEIGHTS)
  W_KD = W_KD[kept]
  centered_KD = W_KD - W_KD.mean(0)
  w = _geometry(W_KD)
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
    'equinorm_w': w['equinorm'],
    'equinorm_w_population': w['equinorm_population'],
    'equiangularity_w': w['equiangularity'],
    'cosine_std_w': w['cosine_std'],
    'w_norm': w['norm'],
  }


def _ratio(value, divisor) -> np.ndarray:
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


def _geometry(rows_KD: np.ndarray) -> dict[str, float]:
  """Norms of the rows, and the angles between them."""
  K = len(rows_KD)
  norm_K = np.linalg.norm(rows_KD, axis=1)
  mean = norm_K.mean()
  unit_KD = _ratio(rows_KD, norm_K[:, None])
  cosine = (unit_KD @ unit_KD.T)[~np.eye(K, dtype=bool)]
  result = dict.fromkeys(
    ('equinorm', 'equinorm_population', 'equiangularity', 'cosine_std'),
    float('nan'),
  )
  result['norm'] = float(mean)
  if K > 1:
    result |= {
      'equinorm': float(_ratio(norm_K.std(ddof=1), mean)),
      'equinorm_population': float(_ratio(norm_K.std(), mean)),
      'equiangularity': float(np.abs(cosine + 1 / (K - 1)).mean()),
      'cosine_std': float(cosine.std()),
    }
  return result


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
