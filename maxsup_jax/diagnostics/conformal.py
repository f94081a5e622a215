r"""Sets of classes that hold the label with a chosen probability.

Split conformal prediction: a score says how badly a class fits an example; the
threshold is a quantile of the scores of the labels of n examples that nothing
else was fitted to, and the set of another example has all classes within it:

.. math:: C(x) = \{k : s(x, k) \le \hat q\}, \qquad \hat q =
  s_{(\lceil (n + 1)(1 - \alpha) \rceil)}

Where those examples and the others are exchangeable, a set holds the label with
a probability of at least :math:`1 - \alpha`, over the draw of both, whatever
the model. Small sets are better; that they hold the label does not tell models
apart.

>>> import numpy as np
>>> from maxsup_jax.diagnostics import conformal
>>> rng = np.random.default_rng(0)
>>> logits = rng.normal(size=(2000, 10))
>>> labels = (logits + rng.gumbel(size=(2000, 10))).argmax(1)
>>> fit, rest = slice(1000), slice(1000, None)
>>> scores = conformal.class_scores(logits, 'lac')
>>> limit = conformal.threshold(scores[np.arange(1000), labels[fit]], 0.9)
>>> sets = scores[rest] <= limit
>>> covered = sets[np.arange(1000), labels[rest]]
>>> print(round(covered.mean(), 2), round(sets.sum(1).mean(), 1))
0.91 6.4
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import checks
from maxsup_jax.diagnostics._blocks import map_rows
from maxsup_jax.errors import integer, number, one_of

METHODS = ('lac', 'aps', 'raps')


def class_scores(
  logits: ArrayLike,
  method: str = 'lac',
  *,
  penalty: float = 0.01,
  allowed: int = 5,
  seed: int = 0,
) -> np.ndarray:
  r"""How badly every class fits every example, float64 `[N, K]`.

  With :math:`p = \mathrm{softmax}(z)`, the rank r of a class by its
  probability, from 1 (the first one of equals is before), and u uniform from 0
  to 1, one for each example:

  * `'lac'`: :math:`1 - p_k`, the least ambiguous sets, also called THR;
  * `'aps'`: :math:`\sum_{r_j < r_k} p_j + u\, p_k`, adaptive sets;
  * `'raps'`: that and :math:`\lambda \max(0, r_k - k_\mathrm{reg})`.

  Args:
    method: one of `METHODS`.
    penalty: :math:`\lambda`, of `'raps'`.
    allowed: :math:`k_\mathrm{reg}`, the size that has no penalty.
    seed: of u. The examples of a threshold and those that it is applied to
      need different ones, or to be scored in one call.

  Examples:
    >>> logits = np.log([[0.5, 0.3, 0.2]])
    >>> class_scores(logits).round(4).tolist()
    [[0.5, 0.7, 0.8]]
    >>> u = np.random.default_rng(0).random(1)[0]
    >>> found = class_scores(logits, 'aps') - u * np.exp(logits)
    >>> found.round(4).tolist()
    [[0.0, 0.5, 0.8]]

  References: LAC: Sadinle et al., 2019; APS: Romano et al., 2020; RAPS:
    Angelopoulos et al., 2021.
  """
  logits_NK = checks.class_scores(logits, masked=True)
  one_of('method', method, METHODS)
  penalty = number('penalty', penalty, low=0)
  allowed = integer('allowed', allowed, low=0)
  u_N = np.random.default_rng(integer('seed', seed, low=0)).random(
    len(logits_NK)
  )

  def block(z_BK: np.ndarray, u_B: np.ndarray) -> np.ndarray:
    z_BK -= z_BK.max(1, keepdims=True)
    p_BK = np.exp(z_BK, out=z_BK)
    p_BK /= p_BK.sum(1, keepdims=True)
    if method == 'lac':
      return 1 - p_BK
    order_BK = np.argsort(-p_BK, 1, kind='stable')
    sorted_BK = np.take_along_axis(p_BK, order_BK, 1)
    score_BK = np.cumsum(sorted_BK, 1) - sorted_BK * (1 - u_B[:, None])
    if method == 'raps':
      rank_K = np.arange(1, p_BK.shape[1] + 1)
      score_BK += penalty * np.maximum(0, rank_K - allowed)
    np.put_along_axis(p_BK, order_BK, score_BK, 1)
    return p_BK

  return map_rows(block, logits_NK, u_N)


def threshold(scores: ArrayLike, coverage: float) -> float:
  r"""The limit that holds the label of another example often enough.

  Args:
    scores: of the labels of n examples, `[n]`.
    coverage: :math:`1 - \alpha`, between 0 and 1.

  Returns:
    The :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest score; infinity,
    which accepts every class, where n is too small for it.

  Examples:
    >>> threshold([0.1, 0.4, 0.2, 0.3], 0.75), threshold([0.1, 0.4], 0.9)
    (0.4, inf)
  """
  scores_N = np.sort(checks.vector(scores, 'scores'))
  coverage = number('coverage', coverage, above=0, below=1)
  # 0.8 times 5 is 4, and not more by rounding.
  rank = math.ceil((len(scores_N) + 1) * coverage - 1e-9)
  return float(scores_N[rank - 1]) if rank <= len(scores_N) else math.inf
