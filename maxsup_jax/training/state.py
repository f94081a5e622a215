"""Everything that training changes, as one tree of arrays."""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from maxsup_jax.losses import Objective


@flax.struct.dataclass
class TrainState:
  """What a step reads and writes. Arrays only, so that it can be saved as is.

  Attributes:
    step: int32 scalar, the number of optimizer steps taken.
    params: the model's parameters, float32.
    batch_stats: running statistics of BatchNorm; empty for models without it.
    opt_state: the state of the optax transformation.
    objective_state: the state of the `Objective`; `()` for most.
    ema: exponential moving averages of `params` and `batch_stats`, under these
      names, or None.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  objective_state: Any
  ema: Any = None

  def variables(self, *, ema: bool = False) -> dict[str, Any]:
    """The variables to apply the model with; the averaged ones if `ema`."""
    source = self.ema if ema else vars(self)
    return {'params': source['params'], 'batch_stats': source['batch_stats']}


def create_state(
  init_variables: Callable[[jax.Array], Mapping[str, Any]],
  optimizer: optax.GradientTransformation,
  objective: Objective,
  *,
  seed: int,
  ema: bool = False,
) -> TrainState:
  """Initialises a state, compiled as one program.

  Args:
    init_variables: gives fresh variables from a key, see `task.Task`.
    optimizer: see `make_optimizer`.
    objective: see `maxsup_jax.losses.make_objective`.
    seed: seeds the initial parameters.
    ema: whether to keep moving averages; they start at the initial values.

  Returns:
    The state of step 0.
  """
  # A teacher's weights in the objective's state would be constants of the
  # program.
  stateless = objective._replace(init=tuple)

  def init(key):
    return first_state(init_variables(key), optimizer, stateless, ema=ema)

  state = jax.jit(init)(jax.random.key(seed))
  return state.replace(objective_state=objective.init())


def first_state(
  variables: Mapping[str, Any],
  optimizer: optax.GradientTransformation,
  objective: Objective,
  *,
  ema: bool = False,
) -> TrainState:
  """The state of step 0 that has these variables.

  Args:
    variables: 'params', and 'batch_stats' where the model has them.
    optimizer: see `make_optimizer`.
    objective: see `maxsup_jax.losses.make_objective`.
    ema: whether to keep moving averages; they start at the variables.
  """
  params, stats = variables['params'], variables.get('batch_stats', {})
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=stats,
    opt_state=optimizer.init(params),
    objective_state=objective.init(),
    ema={'params': params, 'batch_stats': stats} if ema else None,
  )
