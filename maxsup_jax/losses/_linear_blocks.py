"""Statistics of the logits of a linear layer, without the logits.

The classes are visited in blocks. A block of logits lives as long as it takes
to add it up, forward and, computed again, backward: four matrix products
instead of three, and no array of all examples and all classes.

Shapes: N examples, D features, K classes (those of this device, where the
classes are spread over an axis of devices), S classes of a block.
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.interpreters import ad, batching, mlir

# An array, or None where nothing is asked of it.
_Maybe = Any


class Layout(NamedTuple):
  """What is known while tracing."""

  block_size: int
  transposed: bool  # the kernel is `[K, D]`
  soft_cap: float | None
  precision: Any
  axis_name: Any  # of the devices that the classes are spread over
  top: bool  # whether the top logit gets a gradient


class Inputs(NamedTuple):
  """A linear layer, and what is asked about its logits."""

  features: jax.Array  # `[N, D]`
  kernel: jax.Array  # `[D, K]`, in the dtype of the features
  bias: _Maybe  # `[K]`, in the dtype of the sums
  mean_weights: _Maybe  # `[K]`, those of the mean logit
  classes: _Maybe  # bool `[K]`, those that take part
  labels: _Maybe  # `[N]`, among the classes of all devices


class Statistics(NamedTuple):
  """What was asked of every row, `[N]`, in the dtype of the sums."""

  # Of the softmax, less the top logit, which is a constant to autodiff here:
  # the difference keeps the digits that a large logit would cost.
  log_normalizer: jax.Array
  top: jax.Array
  label: _Maybe
  mean: _Maybe


class _Saved(NamedTuple):
  """What the backward pass needs besides inputs and `log_normalizer`."""

  top: jax.Array
  top_class: jax.Array  # int32; meaningless where several classes are on top
  top_count: jax.Array  # how many classes are on top
  labels: _Maybe  # among the classes of this device
  mean_kernel: _Maybe  # `[D]`


def statistics(
  layout: Layout, inputs: Inputs, *, autodiff: bool = False
) -> Statistics:
  """Statistics of the logits, with a backward pass written by hand.

  Or, with `autodiff`, with what JAX makes of the forward pass.
  """
  if autodiff:
    return _forward(layout, inputs, autodiff)[0]
  features, kernel, bias = jax.tree.map(_reverse_only, inputs[:3])
  return _by_hand(
    layout, inputs._replace(features=features, kernel=kernel, bias=bias)
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_hand(layout: Layout, inputs: Inputs) -> Statistics:
  return _forward(layout, inputs)[0]


def _forward(
  layout: Layout, inputs: Inputs, autodiff: bool = False
) -> tuple[Statistics, _Saved]:
  features_ND, kernel, bias_K, weights_K, _, labels_N = inputs
  dtype = _sum_dtype(features_ND)
  N, K = len(features_ND), _num_classes(layout, kernel)
  if layout.axis_name is not None:
    offset = jax.lax.axis_index(layout.axis_name) * K
    labels_N = labels_N if labels_N is None else labels_N - offset
  streamed = weights_K is not None and layout.soft_cap is not None

  def body(carry, block):
    total, top, *counted = carry
    start, ids_S, fresh_S, kernel_block = _block(layout, kernel, block)
    logits_NS, _ = _logits(layout, inputs, start, kernel_block)
    kept_S = _both(fresh_S, _part(inputs.classes, start, layout.block_size))
    logits_NS = _kept(kept_S, logits_NS, -jnp.inf)
    highest = jnp.maximum(top, jnp.max(logits_NS, 1))
    # To autodiff the shift is a constant. Classes of logit -inf add nothing.
    shift = jax.lax.stop_gradient(jnp.where(highest == -jnp.inf, 0, highest))
    terms = [jnp.exp(logits_NS - shift[:, None])]
    if labels_N is not None:
      own_NS = _both(ids_S == labels_N[:, None], kept_S)
      terms.append(jnp.where(own_NS, logits_NS, 0))
    if layout.top:
      on_top_NS = _both(logits_NS == highest[:, None], kept_S)
      terms.append(jnp.where(on_top_NS, jnp.ones((), dtype), 0))
      terms.append(jnp.where(on_top_NS, ids_S.astype(dtype), 0))
    if streamed:
      part_S = _part(weights_K, start, layout.block_size)
      terms.append(_kept(kept_S, logits_NS * part_S))
    found = list((_sums if autodiff else _sums_at_once)(*terms))
    total = total * jnp.exp(jax.lax.stop_gradient(top) - shift) + found[0]
    if layout.top:
      # What was on top of the blocks before may be so no more.
      place = int(labels_N is not None)
      for i in (place, place + 1):
        counted[i] = jnp.where(highest > top, 0, counted[i])
    counted = [old + new for old, new in zip(counted, found[1:])]
    return (total, highest, *counted), None

  zeros = _varying(jnp.zeros(N, dtype), inputs)
  count = (labels_N is not None) + 2 * layout.top + streamed
  if autodiff:  # Or every block would be kept.
    body = jax.checkpoint(body, prevent_cse=False)
  carry = (zeros, zeros - jnp.inf, *[zeros] * count)
  (total, top, *counted), _ = jax.lax.scan(body, carry, _blocks(layout, K))

  label = counted.pop(0) if labels_N is not None else None
  ones, ids = counted[:2] if layout.top else (zeros, zeros)
  log_normalizer, mean, mean_kernel = jnp.log(total), None, None
  if streamed:
    mean = counted[-1]
  elif weights_K is not None:
    # One vector is the mean over the classes: no logits are needed.
    wide = kernel.astype(dtype)
    if layout.transposed:
      mean_kernel = jnp.sum(wide * weights_K[:, None], 0)
    else:
      mean_kernel = jnp.sum(wide * weights_K, 1)
    mean = jnp.sum(features_ND.astype(dtype) * mean_kernel, 1)
    if bias_K is not None:
      mean = mean + jnp.sum(bias_K * weights_K)
  ids = ids.astype(jnp.int32)
  if layout.axis_name is not None:
    highest = jax.lax.pmax(top, layout.axis_name)
    rows = [total * jnp.exp(top - highest), label, mean]
    rows.append(jnp.where(top == highest, ones, 0) if layout.top else None)
    total, label, mean, ones = _summed(rows, layout.axis_name)
    if layout.top:
      far = jnp.iinfo(jnp.int32).max
      ids = jnp.where(top == highest, ids + offset, far)
      ids = jax.lax.pmin(ids, layout.axis_name) - offset
    top, log_normalizer = highest, jnp.log(total)
  saved = _Saved(top, ids, ones, labels_N, mean_kernel)
  return Statistics(log_normalizer, top, label, mean), saved


def _forward_rule(layout: Layout, inputs: Inputs) -> tuple[Statistics, Any]:
  found, saved = _forward(layout, inputs)
  return found, (inputs, found.log_normalizer, saved)


def _backward_rule(
  layout: Layout, residuals: Any, cotangents: Statistics
) -> tuple[Inputs]:
  inputs, log_normalizer, saved = residuals
  features_ND, kernel, bias_K, weights_K, classes_K, _ = inputs
  dtype, size = _sum_dtype(features_ND), layout.block_size
  K = _num_classes(layout, kernel)
  axis = 0 if layout.transposed else 1
  streamed = weights_K is not None and layout.soft_cap is not None
  linear_mean = weights_K is not None and not streamed
  shift_N1 = jax.lax.stop_gradient(saved.top)[:, None]
  if layout.top:
    top_share = cotangents.top / saved.top_count
  if linear_mean:
    # The mean is linear in each factor: its gradients are of rank one.
    mean_N1 = cotangents.mean[:, None]
    mean_D = jnp.sum(mean_N1 * features_ND.astype(dtype), 0)
    features_gradient = mean_N1 * saved.mean_kernel
  else:
    features_gradient = jnp.zeros(features_ND.shape, dtype)

  def body(carry, block):
    features_gradient, kernel_gradient, bias_gradient = carry
    start, ids_S, fresh_S, kernel_block = _block(layout, kernel, block)
    logits_NS, slope_NS = _logits(layout, inputs, start, kernel_block)
    classes_S = _part(classes_K, start, size)
    weights_S = _part(weights_K, start, size)
    logits_NS = _kept(classes_S, logits_NS, -jnp.inf)
    gradient_NS = jnp.exp(logits_NS - shift_N1 - log_normalizer[:, None])
    gradient_NS = cotangents.log_normalizer[:, None] * gradient_NS
    if saved.labels is not None:
      own_NS = ids_S == saved.labels[:, None]
      gradient_NS += jnp.where(own_NS, cotangents.label[:, None], 0)
    if layout.top:
      # The one class on top is known by its id. A logit that is computed again
      # need not have the same bits; only ties are found by them.
      alone_NS = ids_S == saved.top_class[:, None]
      ties_NS = logits_NS == saved.top[:, None]
      single_N1 = saved.top_count[:, None] == 1
      on_top_NS = jnp.where(single_N1, alone_NS, ties_NS)
      gradient_NS += jnp.where(on_top_NS, top_share[:, None], 0)
    if streamed:
      gradient_NS += cotangents.mean[:, None] * weights_S
    if slope_NS is not None:
      gradient_NS *= slope_NS
    gradient_NS = _kept(classes_S, gradient_NS)
    if bias_K is not None:
      bias_block = jnp.sum(gradient_NS, 0)
      if linear_mean:
        of_mean = jnp.sum(cotangents.mean) * weights_S
        bias_block += _kept(classes_S, of_mean)
      bias_gradient = _replaced(bias_gradient, bias_block, start, 0)
    gradient_NS = gradient_NS.astype(features_ND.dtype)
    # Of the last block, some classes were in the block before: their columns
    # are written twice, but must not enter the sum over classes twice.
    once = kernel_block
    if fresh_S is not None:
      fresh = fresh_S[:, None] if layout.transposed else fresh_S
      once = jnp.where(fresh, kernel_block, 0)
    features_gradient += _product(layout, gradient_NS, once, 1, axis)
    if layout.transposed:
      kernel_block = _product(layout, gradient_NS, features_ND, 0, 0)
    else:
      kernel_block = _product(layout, features_ND, gradient_NS, 0, 0)
    if linear_mean:
      rank_one = _kept(classes_S, mean_D[:, None] * weights_S)
      kernel_block += rank_one.T if layout.transposed else rank_one
    kernel_block = kernel_block.astype(kernel.dtype)
    kernel_gradient = _replaced(kernel_gradient, kernel_block, start, axis)
    return (features_gradient, kernel_gradient, bias_gradient), None

  # Every column is written, none is read before.
  empty = jax.lax.empty(kernel.shape, kernel.dtype)
  bias_gradient = None if bias_K is None else jnp.zeros(K, dtype)
  carry = features_gradient, empty, bias_gradient
  carry = jax.tree.map(lambda x: _varying(x, (inputs, cotangents)), carry)
  (features_gradient, kernel_gradient, bias_gradient), _ = jax.lax.scan(
    body, carry, _blocks(layout, K)
  )
  if layout.axis_name is not None:
    names = np.atleast_1d(layout.axis_name).tolist()
    # Where JAX knows that it varies over them, `_like` sums it.
    if not set(names) <= _axes(features_gradient):
      features_gradient = jax.lax.psum(features_gradient, layout.axis_name)
  features_gradient = features_gradient.astype(features_ND.dtype)
  gradients = features_gradient, kernel_gradient, bias_gradient
  layer = jax.tree.map(_like, gradients, inputs[:3])
  return (Inputs(layer[0], layer[1], layer[2], None, None, None),)


_by_hand.defvjp(_forward_rule, _backward_rule)


def _sum_dtype(features_ND: jax.Array) -> Any:
  return jnp.promote_types(features_ND.dtype, jnp.float32)


def _num_classes(layout: Layout, kernel: jax.Array) -> int:
  return kernel.shape[0 if layout.transposed else 1]


def _blocks(layout: Layout, K: int) -> jax.Array:
  return jnp.arange(-(-K // layout.block_size))


def _block(
  layout: Layout, kernel: jax.Array, block: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array]:
  """First class, class ids, which of them are new, and the kernel's part.

  The last block ends with the last class, and may repeat some classes.
  """
  size, K = layout.block_size, _num_classes(layout, kernel)
  start = jnp.minimum(block * size, K - size)
  ids_S = start + jnp.arange(size)
  fresh_S = ids_S >= block * size if K % size else None
  axis = 0 if layout.transposed else 1
  part = jax.lax.dynamic_slice_in_dim(kernel, start, size, axis)
  return start, ids_S, fresh_S, part


def _logits(
  layout: Layout, inputs: Inputs, start: jax.Array, kernel_block: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
  """The logits of a block, `[N, S]`, and the slope of a soft cap."""
  axis = 1 if layout.transposed else 0
  logits_NS = _product(layout, inputs.features, kernel_block, 1, axis)
  bias_S = _part(inputs.bias, start, layout.block_size)
  if bias_S is not None:
    logits_NS = logits_NS + bias_S
  if layout.soft_cap is None:
    return logits_NS, None
  capped_NS = jnp.tanh(logits_NS / layout.soft_cap)
  return layout.soft_cap * capped_NS, 1 - jnp.square(capped_NS)


def _product(
  layout: Layout, a: jax.Array, b: jax.Array, axis_a: int, axis_b: int
) -> jax.Array:
  """The matrix product over these axes, added up in float32 or wider."""
  return jax.lax.dot_general(
    a,
    b,
    (((axis_a,), (axis_b,)), ((), ())),
    precision=layout.precision,
    preferred_element_type=_sum_dtype(a),
  )


def _part(values_K: _Maybe, start: jax.Array, size: int) -> _Maybe:
  if values_K is None:
    return None
  return jax.lax.dynamic_slice_in_dim(values_K, start, size)


def _replaced(
  whole: jax.Array, part: jax.Array, start: jax.Array, axis: int
) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(whole, part, start, axis)


def _both(a: _Maybe, b: _Maybe) -> _Maybe:
  return b if a is None else a if b is None else a & b


def _kept(kept_S: _Maybe, values: jax.Array, other: float = 0) -> jax.Array:
  """The values of these classes, on the last axis; 0 or another elsewhere."""
  return values if kept_S is None else jnp.where(kept_S, values, other)


def _sums(*terms_NS: jax.Array) -> tuple[jax.Array, ...]:
  """Sums over the classes of a block."""
  return tuple(jnp.sum(x, 1) for x in terms_NS)


@jax.custom_jvp
def _sums_at_once(*terms_NS: jax.Array) -> tuple[jax.Array, ...]:
  """The same, in one pass over the block.

  XLA makes one pass of several sums on TPUs only if they are one reduction,
  which JAX does not differentiate. On CPUs that is the slower way.
  """
  return jax.lax.platform_dependent(
    *terms_NS, cpu=_sums, default=_one_reduction
  )


def _one_reduction(*terms_NS: jax.Array) -> tuple[jax.Array, ...]:
  zeros = tuple(jnp.zeros((), x.dtype) for x in terms_NS)
  added: Any = jax.lax.reduce(
    terms_NS, zeros, lambda a, b: tuple(map(operator.add, a, b)), (1,)
  )
  return tuple(added)


@_sums_at_once.defjvp
def _sums_at_once_jvp(primals, tangents):
  return _sums_at_once(*primals), _sums(*tangents)


def _summed(rows: list, axis_name: Any) -> list:
  """The sums of rows over devices, in one exchange; None stays None."""
  present = [row for row in rows if row is not None]
  found = iter(jax.lax.psum(jnp.stack(present), axis_name))
  return [None if row is None else next(found) for row in rows]


def _axes(values: jax.Array) -> set:
  """The axes of devices over which JAX knows values to vary, if it does."""
  return set(jax.typeof(values).manual_axis_type.varying)


def _varying(values: jax.Array, like: Any) -> jax.Array:
  """Marks values that vary over devices as others do, for `shard_map`."""
  missing = set().union(*map(_axes, jax.tree.leaves(like))) - _axes(values)
  if not missing:
    return values
  return jax.lax.pcast(values, tuple(missing), to='varying')


def _like(gradient: jax.Array, values: jax.Array) -> jax.Array:
  """The gradient in values that are the same on several devices: the sum."""
  axes = _axes(gradient) - _axes(values)
  return jax.lax.psum(gradient, tuple(axes)) if axes else gradient


# The identity, whose derivative can be transposed but not computed. JAX refuses
# forward mode by itself, without a word of what to do.
_FORWARD_MODE = (
  "jax.jvp of a linear loss is not possible; expected implementation='autodiff'"
)
_refused_p = jax.extend.core.Primitive('linear_loss_forward_mode')


def _refuse(*_: Any, **__: Any) -> Any:
  raise TypeError(_FORWARD_MODE)


_refused_p.def_impl(_refuse)
_refused_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(_refused_p, _refuse)
ad.deflinear2(_refused_p, lambda cotangent, _: [cotangent])
batching.primitive_batchers[_refused_p] = lambda args, dims: (
  _refused_p.bind(*args),
  *dims,
)


@jax.custom_jvp
def _reverse_only(x: jax.Array) -> jax.Array:
  return x


@_reverse_only.defjvp
def _reverse_only_jvp(primals, tangents):
  return primals[0], _refused_p.bind(tangents[0])
