"""The suite `step`: the training step of each objective, side by side."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from experiments.benchmark import costs, report, timing
from maxsup_jax import losses, models
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import resolve
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.training.optimizers import make_optimizer
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.schedules import learning_rate_schedule
from maxsup_jax.training.state import TrainState, create_state
from maxsup_jax.training.step import make_train_step

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


def settings(**given: Any) -> Any:
  """The settings: those that are given, and the platform's for the rest."""
  count, on_cpu = jax.device_count(), jax.default_backend() == 'cpu'
  chosen = timing.filled(
    {
      'model': 'resnet18' if on_cpu else 'resnet50',
      'image_size': 32 if on_cpu else 224,
      'batch_size': (16 if on_cpu else 256) * count,
      'num_classes': 100 if on_cpu else 1000,
      'dtype': 'float32' if on_cpu else 'bfloat16',
      'rounds': 12,
      # Many steps a round: devices must not wait for the host in between.
      'steps_per_round': 1 if on_cpu else 20,
    },
    given,
  )
  if chosen.batch_size % count:
    raise UsageError(
      f'--batch_size is {chosen.batch_size}; expected a multiple of the '
      f'{count} devices'
    )
  return chosen


def measure(**given: Any) -> dict[str, Any]:
  """Compiles the step of each objective, and times them in turn."""
  s = settings(**given)
  devices = Devices()
  small = s.image_size < _SMALLEST_FOR_IMAGENET_STEM
  options, model = create_model(
    s, **({'stem': 'cifar'} if small and 'stem' in _options(s.model) else {})
  )
  train_steps, state = build(
    s,
    model,
    OBJECTIVES,
    'sgd',
    {
      'learning_rate': 0.1,
      'weight_decay': 1e-4,
      'decay_mask': models.decay_mask(
        model, (1, s.image_size, s.image_size, CHANNELS)
      ),
      'momentum': 0.9,
      'nesterov': True,
    },
  )
  batch = devices.shard(synthetic_batch(s))
  runners = {}
  for name, train_step in train_steps.items():
    timing.say(f'compiling the step of {name}')
    runners[name] = Runner(train_step, state, batch, devices)
  first_steps = {name: runner.first_step() for name, runner in runners.items()}
  orders, seconds = timing.time_in_turn(
    {name: runner.seconds_per_step for name, runner in runners.items()},
    s.rounds,
    s.steps_per_round,
  )
  peak = costs.peak_flops(devices.local[0].device_kind, s.dtype)
  objectives = {
    name: {
      'config': OBJECTIVES[name],
      'first_step': first_steps[name],
      **runner.costs,
      **timed(seconds[name], s.batch_size, runner.costs, peak),
      'ratio_to_ce': timing.ratios(seconds[name], seconds[BASELINE]),
    }
    for name, runner in runners.items()
  }
  return {
    'settings': {
      **vars(s),
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
    },
  }


def timed(
  seconds: list[float],
  batch_size: int,
  program: Mapping[str, Any],  # Of `costs.compile_step`.
  peak: float | None,
) -> dict[str, Any]:
  """What follows from the times of a step, and from its program's costs."""
  step = timing.summary(seconds)
  flops = program['flops_per_device']['as_written']
  return {
    'step_seconds': step,
    'images_per_second': batch_size / step['median'],
    **costs.rate(flops, step['median'], peak),
  }


def _options(model):
  return models.MODELS[model].options if model in models.MODELS else {}


def create_model(s: Any, **options: Any) -> tuple[dict[str, Any], nn.Module]:
  """The model as the trainer builds it; its options, and the module."""
  known = _options(s.model)
  if 'stem' in known:
    options = {'stem': known['stem'], **options}
  if 'batch_norm_axis' in known:
    options['batch_norm_axis'] = AXIS
  return options, models.create_model(
    s.model, s.num_classes, dtype=s.dtype, batch_axis=AXIS, **options
  )


def build(
  s: Any,
  model: nn.Module,
  objectives: Mapping[str, Mapping[str, Any]],
  optimizer: str,
  options: Mapping[str, Any],
  mean: tuple[float, ...] = (0.5,),
  std: tuple[float, ...] = (0.25,),
) -> tuple[dict[str, Any], TrainState]:
  """The per-device step of each objective, and the state they start from.

  No objective has a state of its own; the learning rate is constant.
  """
  options = dict(options)
  learning_rate = learning_rate_schedule(
    'constant', options.pop('learning_rate'), total_steps=100_000
  )
  optimizer = make_optimizer(optimizer, learning_rate, **options)
  tasks = {
    name: _task(s, model, losses.make_objective(x), mean, std)
    for name, x in objectives.items()
  }
  train_steps = {
    name: make_train_step(task, optimizer, learning_rate, seed=_SEED)
    for name, task in tasks.items()
  }
  first = next(iter(tasks.values()))
  state = create_state(
    first.init_variables, optimizer, first.objective, seed=_SEED
  )
  return train_steps, jax.device_get(state)


def _task(
  s: Any,
  model: nn.Module,
  objective: losses.Objective,
  mean: tuple[float, ...],
  std: tuple[float, ...],
) -> Classification:
  """A task that is given its batches: it has no data."""
  shape = (s.image_size, s.image_size, CHANNELS)
  return Classification(
    config=resolve({'dataset': {'mean': mean, 'std': std}}),
    devices=Devices(),
    train_source=None,
    eval_source=None,
    train_transform=None,
    eval_transform=None,
    image_shape=shape,
    eval_shape=shape,
    model=model,
    objective=objective,
  )


def synthetic_batch(s: Any) -> dict[str, np.ndarray]:
  """This process's part of a batch of noise."""
  rng = np.random.default_rng([_SEED, jax.process_index()])
  size = s.batch_size // jax.process_count()
  shape = (size, s.image_size, s.image_size, CHANNELS)
  return {
    'image': rng.integers(0, 256, shape, dtype=np.uint8),
    'label': rng.integers(0, s.num_classes, size, dtype=np.int32),
    'mask': np.ones(size, bool),
  }


class Runner:
  """The compiled step of one objective, with a state of its own."""

  def __init__(self, step, state, batch, devices):
    self._batch, self._devices, self._sums = batch, devices, None
    self._state = devices.replicate(state)
    # Called as the trainer calls it; JAX finds what is compiled below.
    self._mapped = devices.map(step, donate=True)
    program, self.costs = costs.compile_step(
      step, self._mapped, self._state, batch
    )
    if program is None:
      raise UsageError(
        'the devices do not have enough memory; try a smaller --batch_size: '
        + self.costs['lacks']['message']
      )

  def first_step(self) -> dict[str, float]:
    """Takes a step; gives its mean cross-entropy and mean objective."""
    self._take()
    sums = self._devices.fetch(self._sums)
    return {
      name: float(sums[name][0] / sums[name][1])
      for name in ('nll', 'objective')
    }

  def seconds_per_step(self, count: int) -> float:
    """Takes steps in a row, and waits until the last is done."""
    return timing.timer(
      self._take, lambda: jax.block_until_ready((self._state, self._sums))
    )(count)

  def _take(self):
    self._state, self._sums = self._mapped(self._state, self._batch)


STEP_COLUMNS: tuple[report.Column, ...] = (
  ('step, ms (quartiles)', 'step_seconds', report.spread('.1f', 1e3)),
  ('images/s', 'images_per_second', ',.1f'),
  ('achieved, as written', 'flops_per_second_per_device', 'FLOP/s'),
  ('  share of the peak', 'share_of_peak', '.1%'),
)
PROGRAM_COLUMNS: tuple[report.Column, ...] = (
  ('FLOPs as written', 'flops_per_device.as_written', 'FLOP'),
  ('FLOPs as compiled', 'flops_per_device.as_compiled', 'FLOP'),
  ('accessed', 'bytes_accessed_per_device', 'B'),
  ('memory, arguments', 'memory_bytes_per_device.arguments', 'B'),
  ('  temporaries', 'memory_bytes_per_device.temporaries', 'B'),
  ('  outputs', 'memory_bytes_per_device.outputs', 'B'),
  ('  outputs in their place', 'memory_bytes_per_device.aliased', 'B'),
  ('  in all', 'memory_bytes_per_device.total', 'B'),
  ('tracing and lowering, s', 'lower_seconds', '.1f'),
  ('compiling, s', 'compile_seconds', '.1f'),
)


def describe(record: Mapping[str, Any]) -> list[str]:
  """What ran on what, a table, and what it means; at most 80 columns."""
  results = record['results']
  target = results['target']
  columns = (
    ('ratio to CE', 'ratio_to_ce', report.spread('.3f')),
    *STEP_COLUMNS,
    ('objective, first step', 'first_step.objective', '.4f'),
    *PROGRAM_COLUMNS,
  )
  peaks = (
    ('peak of a device', 'peak_flops_per_second_per_device', 'FLOP/s'),
    ('most memory in use', 'peak_memory_bytes_per_device', 'B'),
  )
  return [
    *report.table(
      results['objectives'], columns, title='per device', across=True
    ),
    *report.table({'': results}, peaks, across=True),
    *report.wrapped(
      f'Target: MaxSup within {target["ratio_at_most"] - 1:.0%} of CE. Here '
      f'{target["ratio"] - 1:+.2%}: {target["text"]}.'
    ),
  ]
