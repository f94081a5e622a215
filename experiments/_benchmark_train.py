"""The suite `train`: the training step beside the same one in PyTorch."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments import _benchmark_costs as costs
from experiments import _benchmark_cpu as cpu_options
from experiments import _benchmark_loss_programs as programs
from experiments import _benchmark_step, _torch_models
from experiments import _benchmark_timing as timing
from experiments import _benchmark_train_check as checks
from experiments import _benchmark_train_torch as pytorch
from maxsup_jax import losses, models
from maxsup_jax.errors import UsageError
from maxsup_jax.models import torch_weights
from maxsup_jax.models.registry import DTYPES
from maxsup_jax.training import steps
from maxsup_jax.training.optimizers import make_optimizer
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.schedules import learning_rate_schedule
from maxsup_jax.training.state import create_state

MODELS = ('resnet50', 'vit_small')
ALPHA = 0.1
# ImageNet's, as both frameworks apply them on the device.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPTIMIZERS = {
  'sgd': {
    'learning_rate': 1e-3,
    'weight_decay': 1e-4,
    'momentum': 0.9,
    'nesterov': False,
  },
  'adamw': {'learning_rate': 1e-3, 'weight_decay': 0.05},
}

_SEED = 0
# Side of the matrices whose product tells what a CPU can do.
_MATRIX = 1536
# Of what XLA offers there, see `_benchmark_cpu`.
_ROUNDS_OF_OPTIONS = 15
_BLOCK = {'batch': 8, 'size': 28, 'width': 128}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is measured.

  Attributes:
    models: names that `maxsup_jax.models` and `_torch_models` share.
    image_size: side of the images.
    batch_size: images in a step, on one device.
    num_classes: K.
    dtype: of the computation; parameters are float32.
    rounds: how often the programs take turns.
    steps_per_round: steps of each in a round.
    variants: of PyTorch, keys of `_benchmark_train_torch.VARIANTS`.
    model_options: of both models, such as `width`.
  """

  models: tuple[str, ...]
  image_size: int
  batch_size: int
  num_classes: int
  dtype: str
  rounds: int
  steps_per_round: int
  variants: tuple[str, ...]
  model_options: dict[str, Any] = dataclasses.field(default_factory=dict)


def choose_settings(
  *, model: str | None, variants: Sequence[str] | None, **given: Any
) -> Settings:
  """The settings: those that are given, and the platform's for the rest.

  Args:
    model: one name; None for `MODELS`.
    variants: of PyTorch; None for all that the platform has.
    **given: other fields of `Settings`; None for the default.

  Returns:
    The settings.

  Raises:
    UsageError: if a name is not known.
  """
  platform = jax.default_backend()
  known = pytorch.variants_of(platform)
  if platform == 'cpu':
    defaults = Settings(MODELS, 224, 8, 1000, 'float32', 5, 1, known)
  else:
    defaults = Settings(MODELS, 224, 256, 1000, 'bfloat16', 12, 20, known)
  if model is not None:
    given['models'] = (model,)
  if variants is not None:
    given['variants'] = tuple(dict.fromkeys(variants))
  given = {name: x for name, x in given.items() if x is not None}
  chosen = dataclasses.replace(defaults, **given)
  for flag, values, names in (
    ('model', chosen.models, _torch_models.NAMES),
    ('variants', chosen.variants, known),
    ('dtype', (chosen.dtype,), tuple(DTYPES)),
  ):
    for value in values:
      if value not in names:
        raise UsageError(
          f'--{flag}: unknown {value!r}; known here: {", ".join(names)}'
        )
  return chosen


def measure(settings: Settings) -> dict[str, Any]:
  """Compiles the steps of each model, and times them in turn.

  Args:
    settings: what is measured.

  Returns:
    The sections `settings` and `results` of the record.

  Raises:
    UsageError: if PyTorch cannot take part, or computes something else.
  """
  device = jax.local_devices()[0]
  torch, reason = programs.find_torch(device)
  if torch is None:
    raise UsageError(f'--suite=train compares with PyTorch: {reason}')
  pytorch.configure(torch, device.platform)
  rows = {}
  for name in settings.models:
    _say(f'comparing the logits and gradients of {name}')
    rows[name] = {
      'distances': _distances(settings, name, torch, device),
      **_Model(settings, name, torch, device).measure(),
    }
    # Both frameworks keep what they compiled, and with it the memory.
    jax.clear_caches()
    pytorch.forget(torch)
  return {
    'settings': {
      **dataclasses.asdict(settings),
      'objective': {'name': 'maxsup', 'alpha': ALPHA},
      'optimizers': {n: _optimizer_of(n) for n in settings.models},
      'optimizer_options': OPTIMIZERS,
      'mean': MEAN,
      'std': STD,
      'environment': {
        name: os.environ.get(name)
        for name in ('XLA_FLAGS', 'NPROC', 'OMP_NUM_THREADS')
      },
      **pytorch.describe(torch),
    },
    'results': {
      'device_kind': device.device_kind,
      'peak_flops_per_second': costs.peak_flops(
        device.device_kind, settings.dtype
      ),
      'memory_bandwidth': costs.memory_bandwidth(device.device_kind),
      'matrix_flops_per_second': _matrix_rates(settings, torch, device),
      'on_cpu': cpu_options.measure(_ROUNDS_OF_OPTIONS, **_BLOCK)
      if device.platform == 'cpu'
      else None,
      'models': rows,
    },
  }


def _optimizer_of(model: str) -> str:
  return 'adamw' if model.startswith('vit') else 'sgd'


def _distances(settings, name, torch, device):
  """How far both frameworks are apart, in float32 without shortcuts."""
  few = min(settings.batch_size, checks.IMAGES)
  options = dict(settings.model_options)
  if 'dropout' in models.MODELS[name].options:
    options['dropout'] = 0.0
  exact = dataclasses.replace(
    settings, dtype='float32', batch_size=few, model_options=options
  )
  with checks.exact(torch):
    # Of SGD with nothing added the step is the gradient.
    model = _Model(exact, name, torch, device, 'sgd', checks.GRADIENT_ITSELF)
    compared = model.logits_and_steps()
  return {
    what: checks.check_arrays(what, *both) for what, both in compared.items()
  }


class _Model:
  """One model, in both frameworks."""

  def __init__(
    self, settings, name, torch, device, optimizer=None, optimizer_options=None
  ):
    self._settings, self._name = settings, name
    self._torch, self._device = torch, device
    self._optimizer = optimizer or _optimizer_of(name)
    self._options = optimizer_options or OPTIMIZERS[self._optimizer]
    known = models.MODELS[name].options
    options = dict(settings.model_options)
    if 'batch_norm_axis' in known:
      options['batch_norm_axis'] = AXIS
    self._model = models.create_model(
      name,
      settings.num_classes,
      dtype=settings.dtype,
      batch_axis=AXIS,
      **options,
    )

  def measure(self):
    """A row of the results."""
    settings = self._settings
    batch = _benchmark_step.synthetic_batch(settings)
    devices = Devices([self._device])
    step, state = self._build()
    _say(f'compiling {self._name}, JAX')
    ours = _benchmark_step.Runner(step, state, devices.shard(batch), devices)
    runners, reasons = {}, {}
    for variant in settings.variants:
      _say(f'compiling {self._name}, PyTorch, {variant}')
      reasons[variant] = pytorch.lacks(variant, self._device.platform)
      if reasons[variant] is None:
        runners[variant] = self._in_torch(state, batch, variant)
    if not runners:
      raise UsageError(f'no variant of PyTorch runs: {reasons}')
    first = {'jax': ours.first_step()['objective']}
    first |= {name: runner.first_step() for name, runner in runners.items()}
    checks.check_equal(first, self._device.platform, settings.dtype)
    # Another, after an update by the optimizers that are timed.
    second = {'jax': ours.first_step()['objective']}
    second |= {name: runner.first_step() for name, runner in runners.items()}
    checks.check_equal(
      second, self._device.platform, settings.dtype, checks.AFTER_UPDATE
    )
    timers = {'jax': ours.seconds_per_step}
    timers |= {name: r.seconds_per_step for name, r in runners.items()}
    orders, seconds = timing.time_in_turn(
      timers, settings.rounds, settings.steps_per_round, _say
    )
    program = ours.program()
    peak = costs.peak_flops(self._device.device_kind, settings.dtype)
    flops = program['flops_per_device']['as_written']
    results = {
      name: _timed(seconds[name], settings.batch_size, flops, peak)
      for name in timers
    }
    for name, runner in runners.items():
      results[name]['peak_memory_bytes'] = runner.peak_memory()
    accessed = ours.bytes_accessed()
    return {
      'parameters': models.count_parameters(state.params),
      'optimizer': self._optimizer,
      'first_losses': first,
      'second_losses': second,
      'round_orders': orders,
      'not_run': {name: x for name, x in reasons.items() if x is not None},
      **compare(results, seconds),
      'jax_program': {**program, 'bytes_accessed': accessed},
      'jax_peak_memory_bytes_so_far': costs.peak_memory([self._device]),
      'bound': costs.bound(
        flops,
        accessed,
        peak=peak,
        bandwidth=costs.memory_bandwidth(self._device.device_kind),
        batch_size=settings.batch_size,
      ),
    }

  def logits_and_steps(self):
    """The logits, and what a step changes in each parameter; by name.

    Of each a pair: JAX's and PyTorch's.
    """
    batch = _benchmark_step.synthetic_batch(self._settings)
    devices = Devices([self._device])
    step, state = self._build()
    variant = checks.plainest(self._device.platform)
    there = self._in_torch(state, batch, variant)
    logits = (
      {'logits': self._logits(devices, state, batch)},
      {'logits': there.logits()},
    )
    there.first_step()
    after, _ = devices.map(step)(devices.replicate(state), devices.shard(batch))
    before, ours = (
      torch_weights.to_torch(x.variables(), self._model)
      for x in (state, devices.fetch(after))
    )
    theirs = there.parameters()
    changes = tuple(
      {name: before[name] - x[name] for name in theirs} for x in (ours, theirs)
    )
    return {'logits': logits, 'gradients': changes}

  def _logits(self, devices, state, batch):
    """Of a batch in training, whose statistics BatchNorm takes."""

    def forward(state, batch):
      x = (batch['image'] / 255 - np.array(MEAN, 'f')) / np.array(STD, 'f')
      (logits, _), _ = self._model.apply(
        state.variables(), x, train=True, mutable=['batch_stats']
      )
      return logits

    return devices.fetch(
      devices.map(forward)(devices.replicate(state), devices.shard(batch))
    )

  def _build(self):
    options = dict(self._options)
    # Long enough to be constant.
    learning_rate = learning_rate_schedule(
      'constant', options.pop('learning_rate'), total_steps=100_000
    )
    optimizer = make_optimizer(self._optimizer, learning_rate, **options)
    objective = losses.make_objective({'name': 'maxsup', 'alpha': ALPHA})
    step = steps.make_train_step(
      self._model,
      objective,
      optimizer,
      learning_rate,
      seed=_SEED,
      mean=MEAN,
      std=STD,
    )
    size = self._settings.image_size
    state = create_state(
      self._model,
      optimizer,
      objective,
      image_shape=(size, size, _benchmark_step.CHANNELS),
      seed=_SEED,
    )
    return step, jax.device_get(state)

  def _in_torch(self, state, batch, variant):
    options = dict(self._settings.model_options)
    if self._name.startswith('vit'):
      options['image_size'] = self._settings.image_size
    net = _torch_models.create(
      self._name, self._settings.num_classes, **options
    )
    weights = torch_weights.to_torch(state.variables(), self._model)
    return pytorch.Step(
      self._torch,
      net,
      weights,
      batch,
      variant=variant,
      platform=self._device.platform,
      dtype=self._settings.dtype,
      optimizer=self._optimizer,
      optimizer_options=self._options,
      alpha=ALPHA,
      mean=MEAN,
      std=STD,
    )


def _timed(seconds, batch_size, flops, peak):
  step = timing.summary(seconds)
  return {
    'step_seconds': {'per_round': list(seconds), **step},
    'images_per_second': batch_size / step['median'],
    **costs.rate(flops, step['median'], peak),
  }


def compare(
  results: dict[str, dict[str, Any]], seconds: dict[str, Sequence[float]]
) -> dict[str, Any]:
  """The ratio to the fastest variant of PyTorch, and to each.

  Args:
    results: a row for each program, 'jax' among them.
    seconds: of each, a number a round.

  Returns:
    `programs`, the rows, with `torch_over_jax` in those of PyTorch, the time of
    PyTorch over ours round by round; `reference`, which is the fastest, and
    its ratio.
  """
  torch_names = [name for name in results if name != 'jax']
  for name in torch_names:
    results[name]['torch_over_jax'] = timing.ratios(
      seconds[name], seconds['jax']
    )
  fastest = min(
    torch_names, key=lambda name: results[name]['step_seconds']['median']
  )
  return {
    'programs': results,
    'reference': fastest,
    'torch_over_jax': results[fastest]['torch_over_jax'],
  }


def _matrix_rates(settings, torch, device):
  """FLOP/s of a product of matrices in both frameworks, on a CPU."""
  if device.platform != 'cpu':
    return None
  rng = np.random.default_rng(_SEED)
  array = rng.standard_normal((_MATRIX, _MATRIX), np.float32)
  a = jax.numpy.asarray(array, settings.dtype)
  b = torch.from_numpy(array).to(getattr(torch, settings.dtype))
  product = jax.jit(lambda a: a @ a)
  timers = {
    'jax': pytorch.timer(lambda: product(a).block_until_ready()),
    'torch': pytorch.timer(lambda: b @ b),
  }
  _, seconds = timing.time_in_turn(timers, 5, 2)
  return {
    name: 2 * _MATRIX**3 / timing.summary(x)['median']
    for name, x in seconds.items()
  }


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)
