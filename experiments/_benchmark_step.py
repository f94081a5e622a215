"""The suite `step`: the training step of each objective, side by side."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from experiments import _benchmark_costs as costs
from experiments import _benchmark_timing as timing
from maxsup_jax import losses, models
from maxsup_jax.errors import UsageError
from maxsup_jax.training import steps
from maxsup_jax.training.optimizers import make_optimizer
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.schedules import learning_rate_schedule
from maxsup_jax.training.state import TrainState, create_state

BASELINE = 'ce'
OBJECTIVES = {
  'ce': {'name': 'ce'},
  'ls': {'name': 'ls', 'alpha': 0.1},
  'maxsup': {'name': 'maxsup', 'alpha': 0.1},
}

CHANNELS = 3
_SEED = 0

# Of smaller images the stem for ImageNet and the stages leave next to nothing.
_SMALLEST_FOR_IMAGENET_STEM = 64


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is measured.

  Attributes:
    model: a key of `maxsup_jax.models.MODELS`.
    image_size: side of the images.
    batch_size: images in a step, over all devices.
    num_classes: K.
    dtype: of the computation.
    rounds: how often the objectives take turns.
    steps_per_round: steps of each objective in a round.
  """

  model: str
  image_size: int
  batch_size: int
  num_classes: int
  dtype: str
  rounds: int
  steps_per_round: int


def choose_settings(**given: Any) -> Settings:
  """The settings: those that are given, and the platform's for the rest.

  Args:
    **given: fields of `Settings`; None for the default.

  Returns:
    The settings.

  Raises:
    UsageError: if the batch cannot be split over the devices.
  """
  count = jax.device_count()
  if jax.default_backend() == 'cpu':
    defaults = Settings('resnet18', 32, 16 * count, 100, 'float32', 12, 1)
  else:
    # Many steps a round: the devices must not wait for the host in between.
    defaults = Settings('resnet50', 224, 256 * count, 1000, 'bfloat16', 12, 20)
  given = {name: x for name, x in given.items() if x is not None}
  chosen = dataclasses.replace(defaults, **given)
  if chosen.batch_size % count:
    raise UsageError(
      f'--batch_size={chosen.batch_size} is not a multiple of the {count} '
      'devices'
    )
  return chosen


def measure(settings: Settings) -> dict[str, Any]:
  """Compiles the step of each objective, and times them in turn.

  Args:
    settings: what is measured.

  Returns:
    The sections `settings` and `results` of the record.

  Raises:
    UsageError: if the model is not known or cannot see such images.
  """
  from experiments import _benchmark_pipeline  # Which needs this module.

  devices = Devices()
  options, model = create_model(settings)
  train_steps, state = build(settings, model)
  batch = devices.shard(synthetic_batch(settings))
  runners = {}
  for name, step in train_steps.items():
    _say(f'compiling the step of {name}')
    runners[name] = Runner(step, state, batch, devices)
  first_steps = {name: runner.first_step() for name, runner in runners.items()}
  orders, seconds = timing.time_in_turn(
    {name: runner.seconds_per_step for name, runner in runners.items()},
    settings.rounds,
    settings.steps_per_round,
    _say,
  )
  peak = costs.peak_flops(devices.local[0].device_kind, settings.dtype)
  objectives = {
    name: {
      'config': OBJECTIVES[name],
      'first_step': first_steps[name],
      **derived(
        seconds[name],
        seconds[BASELINE],
        batch_size=settings.batch_size,
        program=runner.program(),
        peak=peak,
      ),
    }
    for name, runner in runners.items()
  }
  return {
    'settings': {
      **dataclasses.asdict(settings),
      'model_options': options,
      'parameters': models.count_parameters(state.params),
      'channels': CHANNELS,
      'optimizer': 'SGD with Nesterov momentum',
    },
    'results': {
      'objectives': objectives,
      'round_orders': orders,
      'target': timing.verdict(objectives['maxsup']['ratio_to_ce']),
      'peak_flops_per_second_per_device': peak,
      'peak_memory_bytes_per_device': costs.peak_memory(devices.local),
      'pipeline': _benchmark_pipeline.measure(settings),
    },
  }


def derived(
  seconds: Sequence[float],
  baseline: Sequence[float],
  *,
  batch_size: int,
  program: Mapping[str, Any],
  peak: float | None,
) -> dict[str, Any]:
  """What follows from the times of one objective and from its program.

  Args:
    seconds: of a step, a number a round.
    baseline: likewise, of the objective that is compared with.
    batch_size: over all devices.
    program: see `Runner.program`.
    peak: FLOP/s of a device.

  Returns:
    A row of `results.objectives`, but for what was configured.
  """
  step = timing.summary(seconds)
  return {
    'step_seconds': {'per_round': list(seconds), **step},
    'ratio_to_ce': timing.ratios(seconds, baseline),
    'images_per_second': batch_size / step['median'],
    **program,
    **costs.rate(
      program['flops_per_device']['as_written'], step['median'], peak
    ),
  }


def create_model(settings: Settings) -> tuple[dict[str, Any], nn.Module]:
  """The model, with the options that the trainer would give it."""
  entry = models.MODELS.get(settings.model)
  known = entry.options if entry else {}
  options = {}
  if 'stem' in known:
    small = settings.image_size < _SMALLEST_FOR_IMAGENET_STEM
    options['stem'] = 'cifar' if small else known['stem']
  if 'batch_norm_axis' in known:
    options['batch_norm_axis'] = AXIS
  model = models.create_model(
    settings.model,
    settings.num_classes,
    dtype=settings.dtype,
    batch_axis=AXIS,
    **options,
  )
  return options, model


def build(
  settings: Settings, model: nn.Module
) -> tuple[dict[str, Callable], TrainState]:
  """The per-device step of each objective, and the state they start from."""
  image_shape = (settings.image_size, settings.image_size, CHANNELS)
  # Long enough never to end; its rates do not matter to the time.
  learning_rate = learning_rate_schedule('cosine', 0.1, total_steps=100_000)
  optimizer = make_optimizer(
    'sgd',
    learning_rate,
    weight_decay=1e-4,
    decay_mask=models.decay_mask(model, (1, *image_shape)),
    momentum=0.9,
    nesterov=True,
  )
  objectives = {
    name: losses.make_objective(config) for name, config in OBJECTIVES.items()
  }
  train_steps = {
    name: steps.make_train_step(
      model,
      objective,
      optimizer,
      learning_rate,
      seed=_SEED,
      mean=(0.5,),
      std=(0.25,),
    )
    for name, objective in objectives.items()
  }
  # None of these objectives has a state of its own, so one fits all.
  state = create_state(
    model,
    optimizer,
    objectives[BASELINE],
    image_shape=image_shape,
    seed=_SEED,
  )
  return train_steps, jax.device_get(state)


def synthetic_batch(settings: Settings) -> dict[str, np.ndarray]:
  """This process's part of a batch of noise."""
  rng = np.random.default_rng([_SEED, jax.process_index()])
  size = settings.batch_size // jax.process_count()
  shape = (size, settings.image_size, settings.image_size, CHANNELS)
  return {
    'image': rng.integers(0, 256, shape, dtype=np.uint8),
    'label': rng.integers(0, settings.num_classes, size, dtype=np.int32),
    'mask': np.ones(size, bool),
  }


class Runner:
  """The compiled step of one objective, with a state of its own."""

  def __init__(self, step, state, batch, devices):
    self._step = step
    self._batch = batch
    self._devices = devices
    self._state = devices.replicate(state)
    # Called as the trainer calls it; JAX finds what is compiled below.
    self._mapped = devices.map(step, donate=True)
    start = time.perf_counter()
    lowered = self._mapped.lower(self._state, batch)
    middle = time.perf_counter()
    self._compiled = lowered.compile()
    self._seconds = {
      'lower_seconds': middle - start,
      'compile_seconds': time.perf_counter() - middle,
    }

  def first_step(self) -> dict[str, float]:
    """Takes a step; gives its mean cross-entropy and mean objective."""
    self._state, sums = self._mapped(self._state, self._batch)
    sums = self._devices.fetch(sums)
    means = {name: float(total / n) for name, (total, n) in sums.items()}
    return {name: means[name] for name in ('nll', 'objective')}

  def seconds_per_step(self, count: int) -> float:
    """Takes steps in a row, and waits until the last is done."""
    state = jax.block_until_ready(self._state)
    start = time.perf_counter()
    for _ in range(count):
      state, sums = self._mapped(state, self._batch)
    self._state, _ = jax.block_until_ready((state, sums))
    return (time.perf_counter() - start) / count

  def bytes_accessed(self) -> float | None:
    """What the compiled step reads and writes in memory, as XLA counts it."""
    return costs.bytes_accessed(self._compiled)

  def program(self) -> dict[str, Any]:
    """What it took to make the program, and what XLA says about it."""
    return {
      **self._seconds,
      'flops_per_device': {
        'as_written': costs.flops_as_written(
          self._step, self._state, self._batch
        ),
        'as_compiled': costs.flops(self._compiled),
      },
      'memory_bytes_per_device': costs.memory(self._compiled),
    }


def _say(text: str) -> None:
  if jax.process_index() == 0:
    print(text, file=sys.stderr, flush=True)
