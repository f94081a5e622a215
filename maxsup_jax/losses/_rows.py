"""The arithmetic that the losses share: masked, shifted rows of logits."""

import dataclasses
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from maxsup_jax.losses import _checks


class Target(NamedTuple):
  """What a loss needs to know of the labels.

  Attributes:
    logit: `[B]`, z_y for a class id y, <y, z> for a distribution y.
    mass: the sum of a distribution, `[B]`; 1 for a class id.
    known: 1, or NaN where the label names no class that takes part.
    distribution: the distributions, `[B, K]`; None for class ids, which never
      become one-hot.
  """

  logit: jax.Array
  mass: jax.Array
  known: jax.Array
  distribution: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
  """One row of logits per example, safe to compute with.

  `B` stands for the batch shape and `K` for the class axis, wherever it is.

  * Masked logits are 0, whatever they were, so that their gradient is exactly
    0, and they are kept out of every sum and maximum. A row that is masked as a
    whole is computed as a row of zeros, and discarded by `finish`.
  * The top logit of every row is 0. All that is computed here is unchanged by a
    shift of the row; shifting first keeps the digits that a large common offset
    would cost. To autodiff the shift is a constant.

  Attributes:
    logits: the logits before the shift, `[B, K]`. Masked classes are -inf.
    shift: what is subtracted from them, `[B, 1]`.
    z: the logits, `[B, K]`.
    axis: the class axis, counted from the left.
    examples: boolean, `[B]`: the examples that take part; None for all.
    classes: boolean, `[B, K]`: the classes that take part; None for all.
  """

  logits: jax.Array
  shift: jax.Array
  z: jax.Array
  axis: int
  examples: jax.Array | None
  classes: jax.Array | None

  @classmethod
  def of(cls, logits: ArrayLike, axis: int, where: ArrayLike | None) -> Self:
    """Checks and reads the logits and their mask."""
    logits_BK, axis = _checks.check_logits(logits, axis)
    examples_B, keep_BK = _checks.check_where(where, logits_BK, axis)
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
    """The top logit: 0, with a gradient that ties share evenly."""
    return jnp.max(self.logits, self.axis) - jnp.squeeze(self.shift, self.axis)

  def log_normalizer(self) -> jax.Array:
    """The log of the sum of exponentials; the largest of them is 1."""
    return jnp.log(self.sum(jnp.exp(self.z)))

  def expand(self, values_B: jax.Array) -> jax.Array:
    """Values per example, `[B]` or a scalar, as `[B, 1]`."""
    shape = _checks.batch_shape(self.z, self.axis)
    return jnp.expand_dims(jnp.broadcast_to(values_B, shape), self.axis)

  def target(self, labels: ArrayLike) -> Target:
    """Checks and reads class ids or distributions."""
    labels = _checks.check_labels(labels, self.z, self.axis)
    if jnp.issubdtype(labels.dtype, jnp.integer):
      return self._class_ids(labels)
    return self._distributions(labels)

  def _class_ids(self, labels_B: jax.Array) -> Target:
    if self.examples is not None:
      labels_B = jnp.where(self.examples, labels_B, 0)
    known_B = (labels_B >= 0) & (labels_B < self.z.shape[self.axis])
    ids_B1 = self.expand(jnp.where(known_B, labels_B, 0))
    if self.classes is not None:
      known_B &= self._at(ids_B1, self.classes)
    # Picked before the shift: XLA cannot fuse a gather with what it reads, and
    # would store the shifted logits for it.
    logit_B = self._at(ids_B1, self.logits) - jnp.squeeze(self.shift, self.axis)
    return Target(
      logit=jnp.where(known_B, logit_B, 0),
      mass=jnp.ones((), self.z.dtype),
      known=self._one_or_nan(known_B),
    )

  def _distributions(self, labels_BK: jax.Array) -> Target:
    labels_BK = labels_BK.astype(self.z.dtype)
    if self.examples is not None:
      labels_BK = jnp.where(self.expand(self.examples), labels_BK, 0)
    known = jnp.ones((), self.z.dtype)
    if self.classes is not None:
      lost_BK = (labels_BK != 0) & ~self.classes
      known = self._one_or_nan(~jnp.any(lost_BK, self.axis))
    return Target(
      logit=self.sum(labels_BK * self.z),
      mass=self.sum(labels_BK),
      known=known,
      distribution=labels_BK,
    )

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
