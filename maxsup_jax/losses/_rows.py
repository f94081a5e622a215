"""The arithmetic that the losses share: masked, shifted rows of logits."""

import dataclasses
import functools
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks

# Of 2**20 logits or fewer that are near the top, the sum is less than 1.
_FRACTION = 2.0**-20


class Target(NamedTuple):
  """What a loss needs to know about the labels.

  Weights of the classes multiply the distribution: that of a class id y is then
  the weight of y at y.
  """

  logit: jax.Array  # `[B]`: z_y for a class id y, <y, z> for a distribution y
  mass: jax.Array  # the sum of a distribution, `[B]`; 1 for a class id
  known: jax.Array  # 1, or NaN where the label names no class that takes part
  ids: jax.Array | None = None  # class ids, `[B]`, 0 where masked or unknown
  distribution: jax.Array | None = None  # `[B, K]`; ids never become one-hot


@dataclasses.dataclass(frozen=True)
class Rows:
  """One row of logits per example, safe to compute with.

  `B` stands for the batch shape and `K` for the class axis, wherever it is.

  * Masked logits are 0, so that their gradient is exactly 0, and they are kept
    out of every sum and maximum. A row that is masked as a whole is computed as
    a row of zeros, and discarded by `finish`.
  * The top logit of every row is 0: shifting first keeps the digits that a
    large common offset would cost. To autodiff the shift is a constant.
  """

  logits: jax.Array  # before the shift, `[B, K]`; masked classes are -inf
  shift: jax.Array  # what is subtracted from them, `[B, 1]`
  z: jax.Array  # the logits, `[B, K]`
  axis: int  # the class axis, counted from the left
  examples: jax.Array | None  # bool `[B]`, those that take part; None for all
  classes: jax.Array | None  # bool `[B, K]`, likewise

  @classmethod
  def of(cls, logits: ArrayLike, axis: int, where: ArrayLike | None) -> Self:
    """Checks and reads the logits and their mask."""
    logits_BK, axis = _checks.logits_and_axis(logits, axis)
    examples_B, keep_BK = _checks.where(where, logits_BK, axis)
    classes_BK = None
    if examples_B is not None:
      examples_B1 = jnp.expand_dims(examples_B, axis)
      if keep_BK is None:
        logits_BK = jnp.where(examples_B1, logits_BK, 0)
      else:
        masked_B1 = jnp.where(examples_B1, -jnp.inf, 0)
        logits_BK = jnp.where(keep_BK, logits_BK, masked_B1)
        classes_BK = keep_BK | ~examples_B1
    constant_BK = jax.lax.stop_gradient(logits_BK)
    shift_B1 = jnp.max(constant_BK, axis, keepdims=True)
    z_BK = logits_BK - shift_B1
    if classes_BK is not None:
      z_BK = jnp.where(classes_BK, z_BK, 0)
    return cls(logits_BK, shift_B1, z_BK, axis, examples_B, classes_BK)

  @classmethod
  def labelled(
    cls,
    logits: ArrayLike,
    labels: ArrayLike,
    class_weights: ArrayLike | None,
    axis: int,
    where: ArrayLike | None,
    *,
    one_class: str | None = None,
  ) -> tuple[Self, Target]:
    """Checks and reads logits and labels, as `cross_entropy` takes them.

    `one_class` says why a loss is not defined for distributions, if it is not.
    """
    if one_class and not _checks.class_ids(jnp.asarray(labels)):
      raise ValueError(
        f'labels are {jnp.asarray(labels).dtype}; expected integer class ids: '
        f'{one_class}'
      )
    rows = cls.of(logits, axis, where)
    return rows, rows.target(labels, class_weights)

  def count(self) -> jax.Array:
    """K, the number of classes that take part."""
    if self.classes is None:
      return jnp.asarray(self.z.shape[self.axis], self.z.dtype)
    return jnp.sum(self.classes, self.axis, dtype=self.z.dtype)

  def sum(self, values_BK: jax.Array) -> jax.Array:
    """The sum over the classes that take part."""
    return jnp.sum(values_BK, self.axis, where=self.classes)

  def mean(self) -> jax.Array:
    """The mean logit."""
    return jnp.mean(self.z, self.axis, where=self.classes)

  def max(self) -> jax.Array:
    """The top logit: 0, with a gradient that ties share evenly.

    Not that of `jnp.max`: it divides by the number of logits that equal the
    maximum, which is none where XLA computes the logits twice, in two ways, as
    it may those of a soft cap. Then the logits nearest to the top share it.
    """
    top_B = jnp.zeros_like(jnp.squeeze(self.shift, self.axis))
    return top_B + _share_of_top(self.z, self.shift, self.classes, self.axis)

  def log_normalizer(self) -> jax.Array:
    """The log of the sum of exponentials; the largest of them is 1."""
    return jnp.log(self.sum(jnp.exp(self.z)))

  def dot(self, weights_BK: jax.Array) -> jax.Array:
    """The sum of the logits times their weights; 0 times -inf is 0."""
    dropped_BK = (self.z == -jnp.inf) & (weights_BK == 0)
    return self.sum(weights_BK * jnp.where(dropped_BK, 0, self.z))

  def cross_entropy(self, target: Target) -> jax.Array:
    """The cross-entropy with the labels."""
    return self.log_normalizer() * target.mass - target.logit

  def cross_entropy_with(self, distribution_BK: jax.Array) -> jax.Array:
    """The cross-entropy of the softmax with a distribution."""
    mass = self.sum(distribution_BK)
    return self.log_normalizer() * mass - self.dot(distribution_BK)

  def cross_entropy_with_softmax(
    self,
    teacher: 'Rows',
    temperature: jax.Array,
    class_weights: ArrayLike | None = None,
  ) -> jax.Array:
    """The cross-entropy with the softmax of other, tempered logits."""
    weights_BK = jnp.exp(teacher.tempered(temperature).z)
    # Normalised after the sums: their terms need not wait for the total.
    total = self.sum(weights_BK)
    weights_K = self.class_weights(class_weights)
    if weights_K is not None:
      weights_BK = weights_BK * self.along_classes(weights_K)
    return self.cross_entropy_with(weights_BK) / total

  def softmax(self) -> jax.Array:
    """The softmax of the logits; 0 where masked."""
    exponentials_BK = jnp.exp(self.z)
    probabilities_BK = exponentials_BK / self.expand(self.sum(exponentials_BK))
    if self.classes is None:
      return probabilities_BK
    return jnp.where(self.classes, probabilities_BK, 0)

  def kept(self, values_BK: jax.Array) -> jax.Array:
    """The values, and 0 for masked examples and classes."""
    if self.examples is not None:
      values_BK = jnp.where(self.expand(self.examples), values_BK, 0)
    if self.classes is not None:
      values_BK = jnp.where(self.classes, values_BK, 0)
    return values_BK

  def distribution(
    self, name: str, values: ArrayLike, class_weights: ArrayLike | None = None
  ) -> jax.Array:
    """Checks and reads a constant distribution, and weights it; 0 if masked."""
    values = _checks.floating(name, values)
    if not _checks.fills(values.shape, self.z.shape):
      raise ValueError(
        f'{name} has shape {values.shape}; expected {self.z.shape}, the shape '
        'of the logits, or axes of size one'
      )
    values_BK = jnp.broadcast_to(values, self.z.shape).astype(self.z.dtype)
    values_BK = self.kept(jax.lax.stop_gradient(values_BK))
    weights_K = self.class_weights(class_weights)
    if weights_K is not None:
      values_BK = values_BK * self.along_classes(weights_K)
    return values_BK

  def like(self, name: str, logits: ArrayLike, where: ArrayLike | None) -> Self:
    """Checks and reads other logits of the same shape, as constants."""
    other_BK = jax.lax.stop_gradient(self.same_shape(name, logits))
    return type(self).of(other_BK, self.axis, where)

  def same_shape(self, name: str, values: ArrayLike) -> jax.Array:
    """Checks other values of the shape of the logits; in their dtype."""
    values = _checks.floating(name, values)
    _checks.shape(name, values, self.z.shape, ', the shape of the logits')
    return values.astype(self.z.dtype)

  def class_weights(self, class_weights: ArrayLike | None) -> jax.Array | None:
    """Checks weights of the classes, `[K]`; in the dtype of the logits."""
    if class_weights is None:
      return None
    expected = (self.z.shape[self.axis],)
    why = _checks.of_logits(self.z)
    _checks.shape('class_weights', class_weights, expected, why)
    return _checks.class_weights(class_weights).astype(self.z.dtype)

  def tempered(self, temperature: jax.Array) -> Self:
    """The rows with `z` divided by a temperature; all else stays as it is.

    What reads the logits before the shift (`target`, `max`) is not tempered.
    """
    return dataclasses.replace(self, z=self.z / self.expand(temperature))

  def unshifted(self) -> jax.Array:
    """The logits before the shift; 0 where masked."""
    if self.classes is None:
      return self.logits
    return jnp.where(self.classes, self.logits, 0)

  def entropy(self) -> jax.Array:
    """The entropy of the softmax, in nats."""
    weights_BK = jnp.exp(self.z)
    total = self.sum(weights_BK)
    return jnp.log(total) - self.dot(weights_BK) / total

  def along_classes(self, values_K: jax.Array) -> jax.Array:
    """Values per class, `[K]`, shaped to broadcast to `[B, K]`."""
    shape = [1] * self.z.ndim
    shape[self.axis] = -1
    return values_K.reshape(shape)

  def expand(self, values_B: jax.Array) -> jax.Array:
    """Values per example, `[B]` or a scalar, as `[B, 1]`."""
    shape = _checks.batch_shape(self.z, self.axis)
    return jnp.expand_dims(jnp.broadcast_to(values_B, shape), self.axis)

  def number(self, name: str, value: ArrayLike, **limits: float) -> jax.Array:
    """Checks and reads a number, or one per example, `[B]`."""
    return _checks.number(name, value, self.z, self.axis, **limits)

  def target(
    self, labels: ArrayLike, class_weights: ArrayLike | None = None
  ) -> Target:
    """Checks and reads class ids or distributions, and weights of classes."""
    labels = _checks.labels(labels, self.z, self.axis)
    weights_K = self.class_weights(class_weights)
    if _checks.class_ids(labels):
      return self._class_ids(labels, weights_K)
    return self._distributions(labels, weights_K)

  def _class_ids(
    self, labels_B: jax.Array, weights_K: jax.Array | None
  ) -> Target:
    if self.examples is not None:
      labels_B = jnp.where(self.examples, labels_B, 0)
    known_B = (labels_B >= 0) & (labels_B < self.z.shape[self.axis])
    ids_B = jnp.where(known_B, labels_B, 0)
    ids_B1 = self.expand(ids_B)
    if self.classes is not None:
      known_B &= self._at(ids_B1, self.classes)
    # Picked before the shift: XLA cannot fuse a gather with what it reads, and
    # would store the shifted logits for it.
    logit_B = self._at(ids_B1, self.logits) - jnp.squeeze(self.shift, self.axis)
    mass = jnp.ones((), self.z.dtype)
    if weights_K is not None:
      mass = weights_K[ids_B]
      logit_B = mass * logit_B
    logit_B = jnp.where(known_B, logit_B, 0)
    return Target(logit_B, mass, self._one_or_nan(known_B), ids=ids_B)

  def _distributions(
    self, labels_BK: jax.Array, weights_K: jax.Array | None
  ) -> Target:
    labels_BK = labels_BK.astype(self.z.dtype)
    if self.examples is not None:
      labels_BK = jnp.where(self.expand(self.examples), labels_BK, 0)
    known = jnp.ones((), self.z.dtype)
    if self.classes is not None:
      lost_BK = (labels_BK != 0) & ~self.classes
      known = self._one_or_nan(~jnp.any(lost_BK, self.axis))
    if weights_K is not None:
      labels_BK = labels_BK * self.along_classes(weights_K)
    logit_B, mass_B = self.dot(labels_BK), self.sum(labels_BK)
    return Target(logit_B, mass_B, known, distribution=labels_BK)

  def finish(
    self, loss_B: jax.Array, target: Target | None = None
  ) -> jax.Array:
    """Turns unknown labels into NaN, and masked examples into 0."""
    if target is not None:
      # A factor rather than a selection: the gradient is NaN as well, and
      # nobody trains on an unknown label unseen.
      loss_B = loss_B * target.known
    if self.examples is None:
      return loss_B
    return jnp.where(self.examples, loss_B, 0)

  def _at(self, ids_B1: jax.Array, values_BK: jax.Array) -> jax.Array:
    picked_B1 = jnp.take_along_axis(values_BK, ids_B1, self.axis, mode='clip')
    return jnp.squeeze(picked_B1, self.axis)

  def _one_or_nan(self, known_B: jax.Array) -> jax.Array:
    return jnp.where(known_B, 1, jnp.nan).astype(self.z.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _share_of_top(
  z_BK: jax.Array, shift_B1: jax.Array, classes_BK: Any, axis: int
) -> jax.Array:
  """0 for each row, with the gradient of its largest number, which is 0."""
  return jnp.zeros_like(jnp.squeeze(shift_B1, axis))


@_share_of_top.defjvp
def _share_of_top_jvp(axis, primals, tangents):
  z_BK, shift_B1, classes_BK = primals
  # What two ways to compute a logit may differ by.
  near = 1e3 * jnp.finfo(z_BK.dtype).eps * jnp.maximum(jnp.abs(shift_B1), 1)
  near_BK, top_BK = z_BK >= -near, z_BK == 0
  if classes_BK is not None:
    near_BK, top_BK = near_BK & classes_BK, top_BK & classes_BK
  # One sum counts both: those that are near are the fraction.
  weights_BK = jnp.where(top_BK, 1, jnp.where(near_BK, _FRACTION, 0))
  total_B1 = jnp.sum(weights_BK.astype(z_BK.dtype), axis, keepdims=True)
  count_B1 = jnp.floor(total_B1)
  some_B1 = count_B1 > 0
  others_B1 = jnp.maximum(total_B1 / _FRACTION, 1)
  share_B1 = 1 / jnp.where(some_B1, count_B1, others_B1)
  chosen_BK = jnp.where(some_B1, top_BK, near_BK)
  change_BK = jnp.where(chosen_BK, share_B1 * tangents[0], 0)
  return _share_of_top(*primals, axis), jnp.sum(change_BK, axis)
