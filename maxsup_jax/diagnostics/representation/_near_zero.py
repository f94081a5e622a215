"""How many logits of an example are close to 0."""

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _blocks, _checks
from maxsup_jax.errors import UsageError


def near_zero_share(logits: ArrayLike, threshold: float = 0.01) -> np.ndarray:
  r"""The share of an example's logits that are close to 0.

  .. math:: \frac{1}{K} \sum_k 1\{|z_k| < t\}

  It depends on the scale and the shift of the logits: compare models at one
  threshold only if both are alike.

  Args:
    logits: floating point `[N, K]`, as the network returns them, K at least 2.
      The single logit of a binary classifier is refused: an invented second
      one, 0 for instance, would be counted.
    threshold: t, greater than 0; 0.01 in the code published with MaxSup.

  Returns:
    A share from 0 to 1 for every example, float64 `[N]`.

  Raises:
    UsageError: one line, for a wrong shape or dtype, logits that are not
      finite, or a threshold that is not positive.

  Examples:
    >>> import numpy as np
    >>> from maxsup_jax.diagnostics import representation
    >>> logits = np.array([[5.0, 0.001, -0.002, 0.3], [0.0, 0.0, 0.0, -4.0]])
    >>> print(representation.near_zero_share(logits))
    [0.5  0.75]

  References:
    Zhou et al., `MaxSup: Overcoming Representation Collapse in Label Smoothing
    <https://arxiv.org/abs/2502.15798>`_, NeurIPS 2025.
  """
  logits = _checks.class_scores(logits, single='refused')
  threshold = _checks.number(threshold, 'threshold', 'more than 0')
  if not threshold > 0:
    raise UsageError(f'threshold is {threshold}; expected more than 0')
  return _blocks.map_rows(
    lambda z: (np.abs(z) < threshold).mean(1, dtype=np.float64), logits
  )
