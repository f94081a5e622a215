"""Losses of a linear classifier from its features, without logits in memory.

They equal those of the same name without `linear_`, in value and gradients. The
classes are visited in blocks, forward and, computed again, backward: memory for
`[N, block_size]` logits instead of `[N, K]`, for one matrix product more. Where
the logits fit into memory the others are faster.
"""

import dataclasses
from typing import Any, NamedTuple, Self, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax import errors
from maxsup_jax.losses import _checks
from maxsup_jax.losses import _linear_blocks as blocks


class Layer(TypedDict, total=False):
  """What all linear losses take by keyword, see `linear_statistics`."""

  bias: ArrayLike | None
  where: ArrayLike | None
  where_classes: ArrayLike | None
  transposed: bool
  soft_cap: float | None
  block_size: int | None
  precision: Any
  axis_name: str | tuple[str, ...] | None
  implementation: str | None


class RowStatistics(NamedTuple):
  """Statistics of the logits of every example, `[B]`.

  In float32, or in float64 for features or a kernel in float64; 0 for masked
  examples.

  Attributes:
    log_normalizer: the log of the sum of the exponentials of the logits.
    max_logit: the top logit; ties share its gradient evenly.
    mean_logit: the mean logit.
    label_logit: the logit of the label, NaN where it names no class that takes
      part; None without labels.
    correct: bool, whether the logit of the label is the top one; None without
      labels.
  """

  log_normalizer: jax.Array
  max_logit: jax.Array
  mean_logit: Any
  label_logit: Any
  correct: Any


def linear_statistics(
  features: ArrayLike,
  kernel: ArrayLike,
  labels: ArrayLike | None = None,
  **layer: Unpack[Layer],
) -> RowStatistics:
  r"""What losses need to know about the logits of a linear layer.

  .. math::
    z = \mathrm{features} \cdot \mathrm{kernel} + \mathrm{bias}

  The logits are never in memory as a whole. A loss that is a function of these
  numbers can be written with them and differentiated, as often as you like, for
  example cross-entropy with the z-loss of PaLM::

    s = linear_statistics(features, kernel, labels)
    loss = s.log_normalizer - s.label_logit + 1e-4 * s.log_normalizer**2

  The products are computed in the common dtype of features and kernel and
  added up in float32 or wider. Gradients have the dtypes of the arguments.
  Features in bfloat16 with a kernel in float32 are multiplied in float32: cast
  the kernel, as Flax does, for products in bfloat16 and a gradient in float32.

  Forward mode (`jax.jvp`, `jax.jacfwd`) needs ``implementation='autodiff'``,
  reverse mode and Hessian-vector products do not.

  Under `jit`, examples may be spread over devices; a kernel that is spread over
  its classes would be gathered as a whole: map over that axis with `shard_map`
  and name it, as in docs/large_vocabulary.md.

  Args:
    features: what the layer sees, floating point, `[B, D]`; `B` may be any
      number of batch axes, also none.
    kernel: its weights, `[D, K]`.
    labels: class ids, integer, `[B]`.
    bias: `[K]`; None for 0.
    where: boolean, the examples that take part, `[B]`. The features of a
      masked example are not looked at, and get no gradient.
    where_classes: boolean, the classes that take part, `[K]`: all but those
      that only pad a vocabulary, for example.
    transposed: whether the kernel is `[K, D]`, as an embedding that is tied to
      the output is.
    soft_cap: `c`, above 0, of logits :math:`c \tanh(z / c)`.
    block_size: the number of classes whose logits are in memory at a time. None
      for 2048, on CPUs 512, and fewer for more than 32,768 examples.
    precision: of the matrix products, see `jax.lax.dot_general`.
    axis_name: the axis of devices over which the classes are spread, if they
      are: kernel, bias, weights and masks of classes are then those of this
      device, labels count the classes of all. Every device returns the same
      losses, and the gradient in the features of all its classes' share summed
      over the axis. No forward mode and no Hessian-vector products.
    implementation: None, or ``'autodiff'`` for a forward pass that JAX
      differentiates, in forward mode as well. It splits the gradient of ties
      for the top logit unevenly if they are in several blocks.

  Raises:
    TypeError: if an argument has the wrong dtype.
    ValueError: if shapes do not fit, or a number is out of its range.

  Examples:
    >>> features = jnp.array([[2.0, 1.0], [0.5, -1.0]])
    >>> kernel = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    >>> found = linear_statistics(features, kernel, jnp.array([0, 2]))
    >>> print(found.max_logit, found.label_logit, found.correct)
    [2.  0.5] [ 2.  -1.5] [ True False]
    >>> print(found.log_normalizer - found.label_logit)
    [0.3490... 2.3063...]

  References: Wijmans et al., 2025 (the logits in blocks); Chowdhery et al.,
    2023 (z-loss).
  """
  rows = Rows.of(features, kernel, labels, top=True, mean=True, **layer)
  return rows.statistics()


def linear_cross_entropy(
  features: ArrayLike,
  kernel: ArrayLike,
  labels: ArrayLike,
  *,
  class_weights: ArrayLike | None = None,
  **layer: Unpack[Layer],
) -> jax.Array:
  """`cross_entropy` of a linear layer, per example.

  Args:
    features, kernel, labels, layer: see `linear_statistics`.
    class_weights: see `cross_entropy`; they get no gradient.

  Returns:
    The loss of every example, `[B]`, as `cross_entropy` has it.

  Examples:
    >>> features = jnp.array([[2.0, 1.0], [0.5, -1.0]])
    >>> kernel = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    >>> print(linear_cross_entropy(features, kernel, jnp.array([0, 2])))
    [0.3490... 2.3063...]
  """
  rows = Rows.of(features, kernel, labels, class_weights, **layer)
  return rows.finish(rows.cross_entropy(), known=True)


def linear_label_smoothing_cross_entropy(
  features: ArrayLike,
  kernel: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  convention: str = 'uniform',
  class_weights: ArrayLike | None = None,
  **layer: Unpack[Layer],
) -> jax.Array:
  """`label_smoothing_cross_entropy` of a linear layer, per example.

  Args:
    alpha: strength of the smoothing, at most 1.
    convention: ``'uniform'`` or ``'others'``. ``'kl'`` has the gradient of
      ``'others'``, and a value that differs by a constant.
    features, kernel, labels, layer: see `linear_statistics`.
    class_weights: see `cross_entropy`; they get no gradient.

  Examples:
    >>> features = jnp.array([[2.0, 1.0], [0.5, -1.0]])
    >>> kernel = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    >>> print(linear_label_smoothing_cross_entropy(
    ...     features, kernel, jnp.array([0, 2]), 0.1))
    [0.4823... 2.2230...]
  """
  rows = Rows.of(
    features, kernel, labels, class_weights, mean='weighted', **layer
  )
  loss = rows.label_smoothing_cross_entropy(alpha, convention=convention)
  return rows.finish(loss, known=True)


def linear_maxsup_cross_entropy(
  features: ArrayLike,
  kernel: ArrayLike,
  labels: ArrayLike,
  alpha: ArrayLike = 0.1,
  *,
  class_weights: ArrayLike | None = None,
  **layer: Unpack[Layer],
) -> jax.Array:
  """`maxsup_cross_entropy` of a linear layer, per example.

  Args:
    alpha: strength of the penalty, at least 0.
    features, kernel, labels, layer: see `linear_statistics`.
    class_weights: see `cross_entropy`; they get no gradient.

  Examples:
    >>> features = jnp.array([[2.0, 1.0], [0.5, -1.0]])
    >>> kernel = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    >>> print(linear_maxsup_cross_entropy(
    ...     features, kernel, jnp.array([0, 2]), 0.1))
    [0.4823... 2.4230...]
  """
  rows = Rows.of(
    features, kernel, labels, class_weights, top=True, mean=True, **layer
  )
  return rows.finish(rows.maxsup_cross_entropy(alpha), known=True)


def linear_max_suppression(
  features: ArrayLike, kernel: ArrayLike, **layer: Unpack[Layer]
) -> jax.Array:
  """`max_suppression` of a linear layer, per example.

  Args:
    features, kernel, layer: see `linear_statistics`.

  Examples:
    >>> features = jnp.array([[2.0, 1.0], [0.5, -1.0]])
    >>> kernel = jnp.array([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    >>> print(linear_max_suppression(features, kernel))
    [1.3333... 1.1666...]
  """
  rows = Rows.of(features, kernel, None, top=True, mean=True, **layer)
  return rows.finish(rows.found.top - rows.found.mean)


@dataclasses.dataclass(frozen=True)
class Rows:
  """What the losses share: arguments checked, and the statistics of rows."""

  found: Any  # `blocks.Statistics`
  logits: Any  # shape `[B, K]` and dtype of the logits that are never there
  examples: jax.Array | None  # bool `[B]`, those that take part
  known: jax.Array  # `[N]`: 1, or NaN where the label names no class
  count: jax.Array  # how many classes take part
  label_weight: jax.Array  # of the class of the label, `[N]` or 1
  mean_weight: jax.Array  # the mean weight of the classes that take part

  @classmethod
  def of(
    cls,
    features: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike | None,
    class_weights: ArrayLike | None = None,
    *,
    top: bool = False,
    mean: bool | str = False,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    where_classes: ArrayLike | None = None,
    transposed: bool = False,
    soft_cap: float | None = None,
    block_size: int | None = None,
    precision: Any = None,
    axis_name: str | tuple[str, ...] | None = None,
    implementation: str | None = None,
    **others: Any,
  ) -> Self:
    """Checks and reads what a loss takes.

    `mean` says whether it needs the mean logit, which `'weighted'` makes that
    of the logits times the weights of their classes.
    """
    if others:
      raise TypeError(
        f'unexpected argument {next(iter(others))!r}; linear_statistics lists '
        'what all linear losses take by keyword'
      )
    features = _checks.floating('features', features)
    kernel = _checks.floating('kernel', kernel)
    transposed = errors.boolean('transposed', transposed)
    K, shards = _num_classes(features, kernel, transposed), 1
    if axis_name is not None:
      shards = jax.lax.axis_size(axis_name)
    common = jnp.promote_types(features.dtype, kernel.dtype)
    dtype = jnp.promote_types(common, jnp.float32)
    batch = features.shape[:-1]
    logits: Any = jax.ShapeDtypeStruct((*batch, K * shards), dtype)
    features_ND = features.reshape(-1, features.shape[-1]).astype(common)
    examples = _examples(where, logits)
    examples_N = None if examples is None else examples.reshape(-1)
    if bias is not None:
      bias = _per_class('bias', _checks.floating('bias', bias), K)
    classes_K = None
    if where_classes is not None:
      classes_K = _checks.boolean('where_classes', where_classes)
      classes_K = _per_class('where_classes', classes_K, K)
    weights_K = None
    if class_weights is not None:
      weights_K = _checks.class_weights(class_weights).astype(dtype)
      weights_K = _per_class('class_weights', weights_K, K)
      weights_K = jax.lax.stop_gradient(weights_K)
    if soft_cap is not None:
      soft_cap = errors.number('soft_cap', soft_cap, above=0)
    if implementation is not None:
      errors.one_of('implementation', implementation, ('autodiff',))
      if axis_name is not None:
        raise ValueError(
          "implementation is 'autodiff'; expected None where axis_name is set"
        )

    def over_classes(values_K: jax.Array) -> jax.Array:
      total = jnp.sum(values_K, dtype=dtype)
      return total if axis_name is None else jax.lax.psum(total, axis_name)

    count = jnp.asarray(K * shards, dtype)
    if classes_K is not None:
      count = over_classes(classes_K)
      # Without a single class left, all examples are masked.
      some = jnp.broadcast_to(count > 0, batch)
      examples = some if examples is None else examples & some
      examples_N = examples.reshape(-1)
      classes_K |= count == 0
      count = over_classes(classes_K)
    if examples_N is not None:
      # Not only their losses: NaN times 0 is NaN in the gradient of the kernel.
      features_ND = jnp.where(examples_N[:, None], features_ND, 0)

    mean_K, mean_weight = None, jnp.ones((), dtype)
    if mean:
      mean_K = jnp.ones(K, dtype) if classes_K is None else classes_K
      if mean == 'weighted' and weights_K is not None:
        mean_K = weights_K * mean_K
        mean_weight = over_classes(mean_K) / count
      mean_K = mean_K / count

    labels_N, known = None, jnp.ones((), dtype)
    label_weight = jnp.ones((), dtype)
    if labels is not None:
      labels_N = _labels(labels, logits).reshape(-1)
      if examples_N is not None:
        labels_N = jnp.where(examples_N, labels_N, 0)
      known_N = (labels_N >= 0) & (labels_N < K * shards)
      labels_N = jnp.where(known_N, labels_N, 0)

      def at_labels(values_K: jax.Array) -> jax.Array:
        values_K = values_K.astype(dtype)
        if axis_name is None:
          return values_K[labels_N]
        local_N = labels_N - K * jax.lax.axis_index(axis_name)
        here = (local_N >= 0) & (local_N < K)
        found = jnp.where(here, values_K[jnp.where(here, local_N, 0)], 0)
        return jax.lax.psum(found, axis_name)

      if classes_K is not None:
        known_N &= at_labels(classes_K) == 1
      if examples_N is not None:
        # Also where class 0 is masked: a factor of NaN would stay in gradients.
        known_N |= ~examples_N
      if weights_K is not None:
        label_weight = at_labels(weights_K)
      known = jnp.where(known_N, 1, jnp.nan).astype(dtype)

    layout = blocks.Layout(
      _block_size(block_size, len(features_ND), K),
      transposed,
      soft_cap,
      precision,
      axis_name,
      top,
    )
    inputs = blocks.Inputs(
      features_ND,
      kernel.astype(common),
      None if bias is None else bias.astype(dtype),
      mean_K,
      classes_K,
      labels_N,
    )
    found = blocks.statistics(
      layout, inputs, autodiff=implementation is not None
    )
    return cls(found, logits, examples, known, count, label_weight, mean_weight)

  def cross_entropy(self) -> jax.Array:
    """The cross-entropy with the labels, weighted, `[N]`."""
    found = self.found
    below_top = jax.lax.stop_gradient(found.top) - found.label
    return self.label_weight * (found.log_normalizer + below_top)

  def label_smoothing_cross_entropy(
    self, alpha: ArrayLike = 0.1, *, convention: str = 'uniform'
  ) -> jax.Array:
    """Cross-entropy with smoothed labels, `[N]`, from the weighted mean."""
    errors.one_of('convention', convention, ('uniform', 'others'))
    alpha = self.number('alpha', alpha, high=1)
    if convention == 'others':
      # With a single class there are no others, and nothing to smooth.
      others = jnp.maximum(self.count - 1, 1)
      alpha = jnp.where(self.count > 1, alpha * self.count / others, 0)
    found = self.found
    uniform = self.mean_weight * found.log_normalizer + (
      self.mean_weight * jax.lax.stop_gradient(found.top) - found.mean
    )
    return (1 - alpha) * self.cross_entropy() + alpha * uniform

  def maxsup_cross_entropy(self, alpha: ArrayLike = 0.1) -> jax.Array:
    """Cross-entropy with max suppression, `[N]`, from the top and the mean."""
    alpha = self.number('alpha', alpha, low=0)
    return self.cross_entropy() + alpha * (self.found.top - self.found.mean)

  def statistics(self) -> RowStatistics:
    """What is known about every row; the mean is None if not asked for."""
    found = self.found
    log_normalizer = found.log_normalizer + jax.lax.stop_gradient(found.top)
    mean = None if found.mean is None else self.finish(found.mean)
    label, correct = None, None
    if found.label is not None:
      correct = self.finish((found.label == found.top) & (self.known == 1))
      label = self.finish(found.label * self.known)
    top = self.finish(found.top)
    return RowStatistics(self.finish(log_normalizer), top, mean, label, correct)

  def number(self, name: str, value: ArrayLike, **limits: float) -> jax.Array:
    """Checks and reads a number, or one per example, `[N]`."""
    value = _checks.number(
      name, value, self.logits, self.logits.ndim - 1, **limits
    )
    if value.ndim:
      value = jnp.broadcast_to(value, self.logits.shape[:-1]).reshape(-1)
    return value

  def finish(self, values_N: jax.Array, known: bool = False) -> jax.Array:
    """Makes unknown labels NaN, if asked to, and masked examples 0; `[B]`."""
    if known:
      values_N = values_N * self.known
    values = values_N.reshape(self.logits.shape[:-1])
    if self.examples is None:
      return values
    return jnp.where(self.examples, values, jnp.zeros((), values.dtype))


def _num_classes(
  features: jax.Array, kernel: jax.Array, transposed: bool
) -> int:
  shape = kernel.shape[::-1] if transposed else kernel.shape
  if features.ndim == 0 or len(shape) != 2 or shape[0] != features.shape[-1]:
    fits = features.ndim and len(shape) == 2 and shape[1] == features.shape[-1]
    hint = f'; is transposed={not transposed} meant?' if fits else ''
    wanted = '[K, D]' if transposed else '[D, K]'
    raise ValueError(
      f'features and kernel have shapes {features.shape} and {kernel.shape}; '
      f'expected [..., D] and {wanted}{hint}'
    )
  if 0 in shape:
    raise ValueError(
      f'kernel has shape {kernel.shape}; expected at least one feature and '
      'one class'
    )
  return shape[1]


def _per_class(name: str, values: jax.Array, K: int) -> jax.Array:
  _checks.shape(name, values, (K,), ', one for each class of the kernel')
  return values


def _examples(where: ArrayLike | None, logits: Any) -> jax.Array | None:
  if where is None:
    return None
  examples = _checks.boolean('where', where)
  why = ', one for each example; where_classes masks classes for all'
  _checks.shape('where', examples, logits.shape[:-1], why)
  return examples


def _labels(labels: ArrayLike, logits: Any) -> jax.Array:
  if not _checks.class_ids(jnp.asarray(labels)):
    raise ValueError(
      f'labels are {jnp.asarray(labels).dtype}; expected integer class ids: '
      'the losses without linear_ take distributions'
    )
  return _checks.labels(labels, logits, logits.ndim - 1)


def _block_size(given: int | None, N: int, K: int) -> int:
  if given is not None:
    return min(errors.integer('block_size', given, 1), K)
  usual = 512 if jax.default_backend() == 'cpu' else 2048
  # A block of a quarter of a gigabyte in float32, in whole tiles of a TPU.
  return min(usual, max(2**26 // max(N, 1) // 128, 1) * 128, K)
