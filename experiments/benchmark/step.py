"""The suite `step`: the training step of each objective, side by side."""

import contextlib
from typing import Any

import jax
import numpy as np

from experiments.benchmark import costs, timing
from maxsup_jax import data, models, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.training.parallel import Devices

OBJECTIVES = {n: {'name': n, 'alpha': 0.1} for n in ('ls', 'maxsup')}
OBJECTIVES = {'ce': {'name': 'ce'}, **OBJECTIVES}


def measure(**given: Any) -> dict[str, Any]:
  """Compiles the step of each objective, and times them in turn."""
  devices, on_cpu = Devices(), jax.default_backend() == 'cpu'
  s = timing.filled(
    {
      'model': 'resnet18' if on_cpu else 'resnet50',
      'image_size': 32 if on_cpu else 224,
      'batch_size': (16 if on_cpu else 256) * devices.count,
      'num_classes': 100 if on_cpu else 1000,
      'dtype': 'float32' if on_cpu else 'bfloat16',
      'rounds': 12,
      # Many steps a round: devices must not wait for the host in between.
      'steps_per_round': 1 if on_cpu else 20,
      'model_options': {},
    },
    given,
  )
  entry = models.MODELS.get(s.model)
  if entry and 'stem' in entry.options:
    # Of small images the stem for ImageNet leaves next to nothing.
    small = s.image_size < 64
    stem = 'cifar' if small else entry.options['stem']
    s.model_options = {'stem': stem, **s.model_options}
  runners, first = {}, {}
  for name, objective in OBJECTIVES.items():
    timing.say(f'compiling the step of {name}')
    run = synthetic_run(s, devices, objective=objective)
    runners[name] = Runner(run, runners['ce'].first_state if runners else None)
    first[name] = runners[name].first_step()
  timers = {name: runner.seconds_per_step for name, runner in runners.items()}
  seconds = timing.time_in_turn(timers, s.rounds, s.steps_per_round)
  peak = costs.peak_flops(devices.local[0].device_kind, s.dtype)
  objectives = {
    name: {
      'config': OBJECTIVES[name],
      'first_step': first[name],
      **runner.costs,
      **timed(seconds[name], s.batch_size, runner.costs, peak),
      'ratio_to_ce': timing.ratios(seconds[name], seconds['ce']),
    }
    for name, runner in runners.items()
  }
  return {'settings': vars(s), 'results': {'objectives': objectives}}


def timed(
  seconds: list[float], batch_size: int, program: Any, peak: float | None
) -> dict[str, Any]:
  """What follows from the times of a step and its `costs.compile_step`."""
  step = timing.summary(seconds)
  flops = program['flops_per_device']['as_written']
  rate = flops and flops / step['median']
  return {
    'step_seconds': step,
    'images_per_second': batch_size / step['median'],
    'share_of_peak': rate / peak if rate and peak else None,
  }


def synthetic_run(s: Any, devices: Devices, **sections: Any) -> Any:
  """A run on a batch of noise, as the trainer builds it."""
  rng, K = np.random.default_rng(0), s.num_classes
  shape = (s.batch_size, s.image_size, s.image_size, 3)
  images = rng.integers(0, 256, shape, dtype=np.uint8)
  labels = rng.integers(0, K, s.batch_size, dtype=np.int32)
  source = data.ArraySource(images, labels, K, name='noise')
  config = {
    'batch_size': s.batch_size,
    'duration': '100000 steps',
    'schedule': {'name': 'constant'},
    'model': {'name': s.model, 'dtype': s.dtype, **s.model_options},
    'dataset': {'mean': (0.5,), 'std': (0.25,)},
    **sections,
  }
  sources = source, source
  return tasks.build(tasks.resolve(config), devices=devices, sources=sources)


class Runner:
  """The compiled step of a synthetic run, with a state of its own."""

  def __init__(self, run: Any, state: Any = None):
    self._devices, self._sums = run.devices, None
    step = run.train_step()
    with contextlib.closing(run.task.train_batches(0)) as batches:
      self.batch = next(batches)
    self._shards = run.devices.shard(self.batch)
    self.first_state = state or jax.device_get(run.init_state())
    self.state = run.devices.replicate(self.first_state)
    # Called as the trainer calls it; JAX finds what is compiled below.
    self._mapped = run.devices.map(step, donate=True)
    arguments = self.state, self._shards
    program, self.costs = costs.compile_step(step, self._mapped, *arguments)
    if program is None:
      raise UsageError(f'{self.costs["lacks"]}; try a smaller --batch_size')

  def first_step(self) -> dict[str, float]:
    """Takes a step; gives its mean cross-entropy and mean objective."""
    self._take()
    sums = self._devices.fetch(self._sums)
    return {n: float(sums[n][0] / sums[n][1]) for n in ('nll', 'objective')}

  def seconds_per_step(self, count: int) -> float:
    """Takes steps in a row, and waits until the last is done."""

    def wait():
      jax.block_until_ready((self.state, self._sums))

    return timing.timer(self._take, wait)(count)

  def _take(self) -> None:
    self.state, self._sums = self._mapped(self.state, self._shards)
