"""The one file that knows how a step is mapped over devices.

A step is a pure per-device function that reduces over the axis `AXIS`. On
several devices `jax.pmap` maps it; on one, `jit(vmap(step))` does, with the
same layout (a leading axis of length 1), because on one CPU device anything
SPMD runs a ResNet step at less than half the speed of plain jit.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'devices'


class Devices:
  """The devices that a run uses: all of all processes, unless some are named.

  Arrays on the devices have a leading axis, one entry per local device.

  Attributes:
    count: devices of all processes together.
    local: this process's devices.
  """

  def __init__(self, devices: Sequence[jax.Device] | None = None):
    self._named = None if devices is None else list(devices)
    self.count = len(devices or jax.devices())
    self.local = jax.local_devices()
    if self._named:
      own = jax.process_index()
      self.local = [d for d in self._named if d.process_index == own]
    mesh = Mesh(np.array(self.local), (AXIS,))
    self._sharding = NamedSharding(mesh, PartitionSpec(AXIS))

  def memory(self) -> int | None:
    """The bytes that one device has; None where nobody tells."""
    if self.local[0].platform == 'cpu':
      return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    try:
      return (self.local[0].memory_stats() or {}).get('bytes_limit')
    except jax.errors.JaxRuntimeError:  # Of one that is only compiled for.
      return None

  def map(self, step: Callable, *, donate: bool = False) -> Callable:
    """Compiles a per-device function for these devices.

    Args:
      step: a function of trees of arrays that may reduce over `AXIS`.
      donate: whether the memory of the first argument may be reused.

    Returns:
      The same function of trees with a leading axis of local devices. It has
      `.lower`, as the result of `jax.jit` has.
    """
    donated = (0,) if donate else ()
    if self.count == 1:
      return jax.jit(jax.vmap(step, axis_name=AXIS), donate_argnums=donated)
    return jax.pmap(
      step, axis_name=AXIS, devices=self._named, donate_argnums=donated
    )

  def replicate(self, tree: Any) -> Any:
    """Copies a tree to every local device."""
    n = len(self.local)

    def put(x):
      x = np.asarray(x)
      return jax.device_put(np.broadcast_to(x, (n, *x.shape)), self._sharding)

    return jax.tree.map(put, tree)

  def shard(self, batch: Any) -> Any:
    """Splits this process's part of a batch evenly over its devices."""
    n = len(self.local)

    def put(x):
      return jax.device_put(
        x.reshape(n, x.shape[0] // n, *x.shape[1:]), self._sharding
      )

    return jax.tree.map(put, batch)

  def shapes(self, tree: Any, *, split: bool) -> Any:
    """What `replicate` or `shard` would give, without the arrays.

    With it a step can be lowered for devices that are not there.

    Args:
      tree: of arrays, or of their shapes and dtypes alone.
      split: as `shard` does, by the first axis; False: as `replicate` does.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.
    """
    n = len(self.local)

    def shape(x):
      rest = (x.shape[0] // n, *x.shape[1:]) if split else x.shape
      return jax.ShapeDtypeStruct((n, *rest), x.dtype, sharding=self._sharding)

    return jax.tree.map(shape, tree)

  def stream(self, batches: Iterable[Any]) -> Iterator[Any]:
    """Shards batches, each while the step runs on the one before."""
    ahead = None
    for batch in batches:
      sharded = self.shard(batch)
      if ahead is not None:
        yield ahead
      ahead = sharded
    if ahead is not None:
      yield ahead

  @staticmethod
  def fetch(tree: Any) -> Any:
    """Brings the first device's part of a replicated tree to the host.

    Each leaf is a copy: the device may reuse its memory for the next step.
    """
    first = [x.addressable_shards[0].data for x in jax.tree.leaves(tree)]
    leaves = [np.array(x[0]) for x in jax.device_get(first)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)

  @staticmethod
  def gather(tree: Any) -> Any:
    """Joins the parts of this process's devices to one host array per leaf.

    Args:
      tree: leaves of shape `[devices, b, ...]`, one row of it on each device.

    Returns:
      The same tree with leaves `[local devices * b, ...]`, in the order in
      which `shard` splits a batch. Each leaf is a copy.
    """
    shards = [
      sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
      for x in jax.tree.leaves(tree)
    ]
    # One call, so that all of them travel at the same time.
    parts = jax.device_get([[s.data for s in leaf] for leaf in shards])
    leaves = [np.concatenate([p[0] for p in leaf]) for leaf in parts]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
