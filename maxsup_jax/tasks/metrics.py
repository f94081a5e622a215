"""Metrics of a classifier as sums over examples, and the means of the sums."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax import losses

ECE_BINS = 15

Sums = dict[str, tuple[jax.Array, jax.Array]]


def classification_sums(
  logits_BK: jax.Array, labels: jax.Array, mask_B: jax.Array
) -> Sums:
  r"""Sums the metrics of a batch over its real examples.

  * `nll`: plain cross-entropy, whatever the training objective;
  * `accuracy`: 1 where the largest logit is the label's. A label tied with
    other classes counts as correct only if it comes first;
  * `top5`: 1 where fewer than five logits exceed the label's (ties with it
    that come earlier count against it); only where there are more than five
    classes.

  Soft labels `[B, K]` count as their most probable class for `accuracy` and
  `top5`.

  Args:
    logits_BK: float `[B, K]`.
    labels: int `[B]` or float `[B, K]`.
    mask_B: bool `[B]`, False for padding.

  Returns:
    A pair (sum, count) for each metric: float32 sums of `nll`, int32 else.

  Examples:
    >>> logits, labels = jnp.array([[2.0, 0.0], [1.0, 3.0]]), jnp.array([0, 0])
    >>> sums = classification_sums(logits, labels, jnp.array([True, True]))
    >>> [int(x) for x in sums['accuracy']]
    [1, 2]
  """
  rank_B = _label_ranks(logits_BK, labels)
  count = mask_B.sum()
  nll_B = losses.cross_entropy(logits_BK, labels, where=mask_B)
  sums = {
    'nll': (nll_B.sum(), count),
    'accuracy': (((rank_B < 1) & mask_B).sum(), count),
  }
  if logits_BK.shape[-1] > 5:
    sums['top5'] = (((rank_B < 5) & mask_B).sum(), count)
  return sums


def class_sums(
  logits_BK: jax.Array,
  labels: jax.Array,
  mask_B: jax.Array,
  num_classes: int,
) -> dict[str, jax.Array]:
  """Counts the real examples of each class, and those that are correct.

  An example is correct where it is for `accuracy` of `classification_sums`.

  Args:
    logits_BK: float `[B, K]`.
    labels: int `[B]`, or float `[B, K]`, which count as their most probable
      class.
    mask_B: bool `[B]`, False for padding.
    num_classes: K.

  Returns:
    `correct` and `count`, int32 `[K]` each.

  Examples:
    >>> logits, labels = jnp.array([[2.0, 0.0], [3.0, 1.0]]), jnp.array([0, 1])
    >>> sums = class_sums(logits, labels, jnp.array([True, True]), 2)
    >>> sums['correct'].tolist(), sums['count'].tolist()
    ([1, 0], [1, 1])
  """
  correct_B = _label_ranks(logits_BK, labels) < 1
  member_BK = _class_ids(labels)[:, None] == jnp.arange(num_classes)
  member_BK &= mask_B[:, None]
  return {
    'correct': (member_BK & correct_B[:, None]).sum(0, dtype=jnp.int32),
    'count': member_BK.sum(0, dtype=jnp.int32),
  }


def _class_ids(labels: jax.Array) -> jax.Array:
  return labels if labels.ndim == 1 else labels.argmax(-1)


def _label_ranks(logits_BK: jax.Array, labels: jax.Array) -> jax.Array:
  """How many logits come before that of the label, int `[B]`."""
  K, ids_B = logits_BK.shape[-1], _class_ids(labels)
  # Earlier classes win ties, as in argmax. NaN compares false with everything:
  # a NaN logit would rank first without help.
  z_B1 = jnp.take_along_axis(logits_BK, ids_B[:, None], -1)
  earlier_BK = jnp.arange(K) < ids_B[:, None]
  above_BK = (logits_BK > z_B1) | ((logits_BK == z_B1) & earlier_BK)
  return jnp.where(jnp.isnan(logits_BK).any(-1), K, above_BK.sum(-1))


def calibration_sums(
  logits_BK: jax.Array,
  labels: jax.Array,
  mask_B: jax.Array,
  bins: int = ECE_BINS,
) -> dict[str, jax.Array]:
  """Sums, per confidence bin, what the expected calibration error needs.

  The confidence is the largest softmax probability, in float32. The bins are
  of equal width and closed on the right, `(i/bins, (i+1)/bins]`.

  Args:
    logits_BK: float `[B, K]`.
    labels: int `[B]`, or float `[B, K]`, which count as their most probable
      class.
    mask_B: bool `[B]`, False for padding.
    bins: the number of bins.

  Returns:
    `count` int32, `correct` int32 and `confidence` float32, each `[bins]`.

  Examples:
    >>> logits, labels = jnp.array([[9.0, 0.0], [0.1, 0.0]]), jnp.array([0, 0])
    >>> sums = calibration_sums(logits, labels, jnp.array([True, True]), bins=4)
    >>> sums['count'].tolist()
    [0, 0, 1, 1]
  """
  probabilities_BK = jax.nn.softmax(logits_BK.astype(jnp.float32))
  confidence_B = probabilities_BK.max(-1)
  correct_B = (logits_BK.argmax(-1) == _class_ids(labels)) & mask_B
  edges = jnp.asarray(np.linspace(0, 1, bins + 1)[1:-1], jnp.float32)
  bin_B = jnp.searchsorted(edges, confidence_B, side='left')

  member_BM = bin_B[:, None] == jnp.arange(bins)

  def per_bin(values_B):
    # A scatter-add would sum in another order on every run on a GPU.
    return jnp.where(member_BM, values_B[:, None], 0).sum(0)

  return {
    'count': per_bin(mask_B.astype(jnp.int32)),
    'correct': per_bin(correct_B.astype(jnp.int32)),
    'confidence': per_bin(jnp.where(mask_B, confidence_B, 0.0)),
  }


def expected_calibration_error(bins: Mapping[str, np.ndarray]) -> float:
  r"""The expected calibration error from the sums of `calibration_sums`.

  .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} |\mathrm{acc}_b -
    \mathrm{conf}_b|

  Args:
    bins: `count`, `correct` and `confidence`, `[bins]` each, summed over the
      whole data.

  Returns:
    A number from 0 to 1; NaN if there is no example.

  Examples:
    Two examples with confidence 0.9, one of them correct:

    >>> sums = {'count': [0, 2], 'correct': [0, 1], 'confidence': [0.0, 1.8]}
    >>> round(expected_calibration_error(sums), 6)
    0.4

  References:
    Guo et al., `On Calibration of Modern Neural Networks
    <https://arxiv.org/abs/1706.04599>`_, 2017, eq. 5.
  """
  correct, confidence, count = (
    np.asarray(bins[name], np.float64)
    for name in ('correct', 'confidence', 'count')
  )
  if not count.sum():
    return float('nan')
  return float(np.abs(correct - confidence).sum() / count.sum())


def output_sums(
  logits_BK: jax.Array, labels: jax.Array, mask_B: jax.Array
) -> dict[str, Any]:
  """What an evaluation sums of logits, whatever the objective."""
  return {
    'classification': classification_sums(logits_BK, labels, mask_B),
    'calibration': calibration_sums(logits_BK, labels, mask_B),
  }


def means(
  sums: Mapping[str, Any],
  groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float]:
  """The number of examples, and the means over them.

  Args:
    sums: over a split, on the host in float64: `classification`, `calibration`
      and, for `groups`, `classes`.
    groups: names of groups of classes, and the ids of these. For each
      `accuracy_NAME` is added: that of the examples of its classes, every
      example with the same weight. It is NaN, not 0, where there are none.

  Returns:
    `examples`, `accuracy`, `top5` (more than five classes only),
    `accuracy_NAME` of each group, `nll`, `ece` and, where it was summed,
    `objective`.
  """
  found = {
    name: float(total) / float(count) if count else float('nan')
    for name, (total, count) in sums['classification'].items()
  }
  return {
    'examples': int(sums['classification']['nll'][1]),
    **{name: found[name] for name in ('accuracy', 'top5') if name in found},
    **{
      f'accuracy_{name}': _group_accuracy(sums['classes'], name, ids)
      for name, ids in (groups or {}).items()
    },
    'nll': found['nll'],
    'ece': expected_calibration_error(sums['calibration']),
    **{name: found[name] for name in ('objective',) if name in found},
  }


def _group_accuracy(
  classes: Mapping[str, np.ndarray], name: str, ids: Sequence[int]
) -> float:
  K, ids = len(classes['count']), sorted(set(ids))
  if ids and not 0 <= ids[0] <= ids[-1] < K:
    raise ValueError(
      f'the group {name!r} has the classes {ids}; expected at least 0 and '
      f'below {K}'
    )
  correct, count = (float(classes[n][ids].sum()) for n in ('correct', 'count'))
  return correct / count if count else float('nan')


def shot_groups(
  counts: Sequence[int], *, many: int = 100, few: int = 20
) -> dict[str, tuple[int, ...]]:
  """Groups classes by their number of training images.

  Args:
    counts: training images of each class.
    many: a class with more of them is one of 'many'.
    few: a class with fewer of them is one of 'few'; the rest is 'medium'.

  Returns:
    The ids of the classes of 'many', 'medium' and 'few', in this order. A group
    may be empty.

  Examples:
    >>> shot_groups([500, 101, 100, 20, 19])
    {'many': (0, 1), 'medium': (2, 3), 'few': (4,)}

  References:
    Liu et al., `Large-Scale Long-Tailed Recognition in an Open World
    <https://arxiv.org/abs/1904.05160>`_, 2019.
  """

  def group(count):
    return 'many' if count > many else 'few' if count < few else 'medium'

  return {
    name: tuple(i for i, count in enumerate(counts) if group(count) == name)
    for name in ('many', 'medium', 'few')
  }


def table(
  records: Sequence[Mapping[str, Any]], *, made_up: bool = False
) -> str:
  """Evaluation records as a table, a column each.

  Args:
    records: as in `metrics.jsonl`.
    made_up: whether the images are random, which is said below then.
  """
  titles = [
    f'{r["split"]}, averaged weights' if r['weights'] == 'ema' else r['split']
    for r in records
  ]
  width = max(14, *(len(t) + 2 for t in titles))
  lines = [' ' * 18 + ''.join(f'{t:>{width}}' for t in titles)]
  for name, title, form in (
    ('step', 'step', 'd'),
    ('examples', 'examples', 'd'),
    ('miou', 'mIoU', '.2%'),
    ('constant_miou', 'of one class', '.2%'),
    ('macc', 'mean accuracy', '.2%'),
    ('accuracy', 'accuracy', '.2%'),
    ('boundary_accuracy', 'near boundaries', '.2%'),
    ('interior_accuracy', 'away from them', '.2%'),
    ('top5', 'top-5 accuracy', '.2%'),
    ('accuracy_many', 'many shots', '.2%'),
    ('accuracy_medium', 'medium shots', '.2%'),
    ('accuracy_few', 'few shots', '.2%'),
    ('nll', 'NLL', '.4f'),
    ('ece', 'ECE, 15 bins', '.2%'),
    ('objective', 'objective', '.4f'),
    ('perplexity', 'perplexity', '.3f'),
    ('kl_to_truth', 'KL to the truth', '.4f'),
    ('entropy', 'its entropy', '.4f'),
    ('true_accuracy', 'true accuracy', '.2%'),
    ('bayes_accuracy', 'best possible', '.2%'),
    ('certain_accuracy', 'where certain', '.2%'),
    ('true_calibration', 'true calibration', '.2%'),
    ('valid_mass', 'mass on valid', '.2%'),
    ('impossible', 'impossible', '.2%'),
  ):
    if name in records[0]:
      values = [
        'undefined' if r[name] is None else format(r[name], form)
        for r in records
      ]
      lines.append(f'{title:<18}' + ''.join(f'{v:>{width}}' for v in values))
  if made_up:
    lines += [
      '',
      'The images are random (config.dataset.mock), so these numbers mean '
      'nothing.',
    ]
  return '\n'.join(lines)
