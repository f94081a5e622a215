"""What training knows about a task: the contract between task and loop."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from maxsup_jax.losses import Objective
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import TrainState

Batch = Mapping[str, Any]
# A (sum, count) for each metric, or any other tree of arrays that add up.
Sums = dict[str, Any]


class Aux(NamedTuple):
  """What a training step learns besides the loss.

  Attributes:
    sums: (sum, count) of each metric over this device's examples.
    batch_stats: the updated running statistics of BatchNorm, `{}` for none.
    objective_state: the next state of the objective.
  """

  sums: dict[str, tuple[jax.Array, jax.Array]]
  batch_stats: Any
  objective_state: Any


class Measurement(NamedTuple):
  """What a task measures on a split besides its evaluation.

  Attributes:
    record: numbers by name, for a line of `metrics.jsonl`.
    headline: the most important ones, for people.
    problem: one line that says why some are NaN, or None.
  """

  record: dict[str, Any]
  headline: str
  problem: str | None = None


class Task(Protocol):
  """The one thing that knows what is trained.

  The step, the loop, checkpoints, resume and logs are written once, for all
  tasks, and see nothing but this.
  """

  @property
  def name(self) -> str:
    """The model, for people."""

  @property
  def objective(self) -> Objective:
    """What is minimised."""

  @property
  def unit(self) -> str:
    """What examples are called, in the plural, such as 'images'."""

  @property
  def train_name(self) -> str:
    """The training data, for messages."""

  @property
  def train_examples(self) -> int:
    """The number of training examples."""

  @property
  def made_up(self) -> bool:
    """Whether the training examples are random, to try things out."""

  @property
  def eval_split(self) -> str:
    """The split that is evaluated during training."""

  @property
  def measured_splits(self) -> tuple[str, ...]:
    """The splits that `measurement` is for; `()` for none."""

  @property
  def scores(self) -> tuple[str, ...]:
    """Names in every `report` that a run may keep its best checkpoint by."""

  @property
  def device_dependent(self) -> tuple[str, ...]:
    """Fields that make the results depend on the number of devices."""

  @property
  def files(self) -> Mapping[str, bytes]:
    """What a run keeps in its directory, by name, such as a vocabulary.

    A run that is resumed must still have the same.
    """

  def init_variables(self, key: jax.Array) -> Mapping[str, Any]:
    """Fresh variables: 'params' and, where there are any, 'batch_stats'."""

  def initialized(self, state: TrainState) -> TrainState:
    """The state of step 0, from other weights if the run starts from some.

    With a state of shapes alone it only checks that they fit.
    """

  def origin(self) -> dict[str, Any]:
    """Where the weights of the first state come from, for `run.json`."""

  def train_loss(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    step: jax.Array,
    objective_state: Any,
    key: jax.Array,
  ) -> tuple[jax.Array, jax.Array, Aux]:
    """The objective on one device's part of a batch, to be differentiated.

    Args:
      variables: 'params' and 'batch_stats'.
      batch: this device's part.
      step: the number of steps taken.
      objective_state: of the objective.
      key: of this step; the same on every device.

    Returns:
      One value per example (or pixel, or token), 0 where masked; a boolean mask
      of the same shape, True for those that count in the mean; and the rest.
    """

  def eval_sums(
    self,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    step: jax.Array,
    objective_state: Any,
  ) -> Sums:
    """Sums over the real examples of one device's part of a batch."""

  def report(self, sums: Sums) -> dict[str, Any]:
    """The means of a split, from its sums as float64 on the host."""

  def headline(self, report: Mapping[str, Any]) -> str:
    """The most important numbers of a report, for people."""

  def train_batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of the batches from a step on."""

  def eval_batches(
    self, split: str | None = None
  ) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of a split, in its order, padded and masked."""

  def measurement(
    self, devices: Devices
  ) -> Callable[[Mapping[str, Any], str], Measurement]:
    """Measures replicated variables on one of `measured_splits`."""
