"""Neural collapse and calibration of a split, on any number of devices.

Two passes over the split, in evaluation mode: class means first, then the
distances to them. What a batch adds is summed over the devices, so that no
feature leaves them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from maxsup_jax.diagnostics.neural_collapse import ClassMeans, WithinClass
from maxsup_jax.diagnostics.representation import CosineVariation
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import metrics
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.sums import add_sums
from maxsup_jax.training.task import Batch, Measurement

# Attributes of `NeuralCollapse`, which are also their names in a record.
COLLAPSE = (
  'nc1',
  'nc2',
  'nc3',
  'nc2h',
  'nc2w',
  'w_norm',
  'h_norm',
  'ncc_accuracy',
)
# Names in a record, and the attributes of `Variation` that they are.
COSINES = {
  'cosine_within': 'within',
  'cosine_total': 'total',
  'r_squared': 'r_squared',
}


class Passes(NamedTuple):
  """Functions of one device's part of a batch, or of its copy of a sum.

  Attributes:
    first: `(variables, batch) -> (sums, class_sums)`: the sums are those of
      NLL, accuracy and calibration, then what `ClassMeans` and
      `CosineVariation` add.
    second: `(variables, between, batch) -> within_sums`, what `WithinClass`
      adds.
    add_first: `((class_means, cosines), class_sums) -> (class_means, cosines)`.
      Apart from the model, so that this is compiled once, wherever the sums
      come from.
    add_second: `(within_class, within_sums) -> within_class`.
  """

  first: Callable
  second: Callable
  add_first: Callable
  add_second: Callable

  def mapped(self, devices: Devices) -> 'Passes':
    """The passes, compiled for devices."""
    return Passes(*map(devices.map, self))


def make_passes(
  apply: Callable[[Any, jax.Array], tuple[jax.Array, Mapping[str, jax.Array]]],
) -> Passes:
  """Builds both passes over a split, to be mapped over devices.

  Args:
    apply: logits and outputs of variables and images, see
      `Classification.apply`.

  Returns:
    The functions; all sums are over the global batch.
  """

  def outputs(variables, batch: Batch):
    logits, outputs = apply(variables, batch['image'])
    return logits, outputs['penultimate']

  def first(variables, batch):
    labels, mask = batch['label'], batch['mask']
    logits, features = outputs(variables, batch)
    sums = metrics.output_sums(logits, labels, mask)
    K = logits.shape[-1]
    class_sums = (
      ClassMeans.batch_sums(features, labels, mask, K),
      CosineVariation.batch_sums(features, labels, mask, K),
    )
    return jax.lax.psum((sums, class_sums), AXIS)

  def second(variables, between, batch):
    _, features = outputs(variables, batch)
    sums = WithinClass.batch_sums(
      between, features, batch['label'], batch['mask']
    )
    return jax.lax.psum(sums, AXIS)

  return Passes(
    first,
    second,
    add_first=lambda both, sums: tuple(x.add(s) for x, s in zip(both, sums)),
    add_second=lambda within, sums: within.add(
      sums, predicted=False, group_by='labels'
    ),
  )


def measure(
  passes: Passes,
  variables: Mapping[str, Any],
  batches: Callable[[], Iterable[dict[str, np.ndarray]]],
  devices: Devices,
) -> Measurement:
  """Measures replicated variables on a split.

  Args:
    passes: those of `make_passes`, mapped by `devices`.
    variables: on the devices, replicated.
    batches: gives this process's part of every batch, padding masked, as often
      as it is called.
    devices: where the variables live.

  Returns:
    The numbers: `examples`, `accuracy`, `nll` and `ece`, as an evaluation gives
    them, and those of `COLLAPSE` and of `COSINES`, in the conventions that are
    the defaults of `maxsup_jax.diagnostics`. These are NaN where they are not
    defined (a class has no example, say), and `problem` says why.
  """
  head = devices.fetch(variables['params']['head'])
  D, K = head['kernel'].shape
  total: Any = None
  pending: list[Any] = []
  both = devices.replicate((ClassMeans.init(K, D), CosineVariation.init(K, D)))
  for batch in devices.stream(batches()):
    sums, class_sums = passes.first(variables, batch)
    both = passes.add_first(both, class_sums)
    pending.append(sums)
    # One batch computes while the sums of the one before travel.
    if len(pending) > 1:
      total = add_sums(total, devices.fetch(pending.pop(0)))
  while pending:
    total = add_sums(total, devices.fetch(pending.pop(0)))
  means = metrics.means(total)
  found: dict[str, Any] = {
    name: means[name] for name in ('examples', 'accuracy', 'nll', 'ece')
  }
  class_means, cosines = devices.fetch(both)
  problems = []
  # Hours of training are worth more than these numbers: what is undefined, of
  # a class without examples for one, is NaN and ends nothing.
  found |= dict.fromkeys((*COLLAPSE, *COSINES), float('nan'))
  try:
    variation = cosines.compute()
    found |= {n: float(getattr(variation, a)) for n, a in COSINES.items()}
  except UsageError as e:
    problems.append(str(e))
  try:
    between = class_means.compute()
    on_devices = devices.replicate(between)
    within_class = devices.replicate(WithinClass.init(K))
    for batch in devices.stream(batches()):
      before = within_class
      within_class = passes.add_second(
        before, passes.second(variables, on_devices, batch)
      )
      # The host must not run ahead: its batches wait in the devices' memory.
      jax.block_until_ready(before)
    collapse = devices.fetch(within_class).compute(
      between, head['kernel'].T, head['bias']
    )
    found |= {n: float(getattr(collapse, n)) for n in COLLAPSE}
  except UsageError as e:
    problems.append(str(e))
  headline = (
    f'NC1 {found["nc1"]:.4g}, NC2 {found["nc2"]:.4f}, NC3 {found["nc3"]:.4f}, '
    f'ECE {found["ece"]:.2%}'
  )
  return Measurement(
    found, headline, '; '.join(dict.fromkeys(problems)) or None
  )
