"""The suite `train`: the training step beside the same one in PyTorch."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmark import (
  costs,
  report,
  timing,
  torch_step,
  xla_cpu,
)
from experiments.benchmark import step as steps
from maxsup_jax import models
from maxsup_jax.errors import UsageError, one_of
from maxsup_jax.models import torch_weights
from maxsup_jax.models.registry import DTYPES
from maxsup_jax.training.parallel import Devices

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

# How far the losses of a step may be apart, relatively: with equal weights and
# images, what is left is rounding. GPUs multiply in TF32. Of fresh weights the
# losses are near log K whatever is computed, so more is compared.
_TOLERANCE = {('cpu', 'float32'): 1e-4}
_OTHER_TOLERANCE = 2e-2
# After an update, whose rounding deep fresh networks with BatchNorm amplify: of
# ResNet-50 the losses are then 0.003 apart.
_AFTER_UPDATE = 2e-2
# In float32, on all platforms. The gradients of deep fresh networks with
# BatchNorm amplify rounding: those of ResNet-50 are 0.04 off those in float64.
_TOLERANCES = {'logits': 1e-3, 'gradients': 0.2}
# Of so many images at most, and of an SGD whose step is the gradient.
_IMAGES = 16
_GRADIENT = {
  'learning_rate': 1.0,
  'weight_decay': 0.0,
  'momentum': 0.0,
  'nesterov': False,
}

# Side of the matrices whose product tells what a CPU can do.
_MATRIX = 1536

# On a GPU our step is to be at least as fast.
_TARGET = 1.0


def settings(*, model: str | None, variants: Any, **given: Any) -> Any:
  """The settings: those that are given, and the platform's for the rest."""
  from experiments.benchmark import torch_models

  platform = jax.default_backend()
  on_cpu, known = platform == 'cpu', torch_step.variants_of(platform)
  s = timing.filled(
    {
      'models': MODELS,
      'image_size': 224,
      'batch_size': 8 if on_cpu else 256,
      'num_classes': 1000,
      'dtype': 'float32' if on_cpu else 'bfloat16',
      'rounds': 5 if on_cpu else 12,
      'steps_per_round': 1 if on_cpu else 20,
      'variants': known,
    },
    {**given, 'models': model and (model,)},
  )
  if variants is not None:
    s.variants = tuple(dict.fromkeys(variants))
  for flag, values, names in (
    ('--model', s.models, torch_models.MODELS),
    ('--variants', s.variants, known),
    ('--dtype', (s.dtype,), DTYPES),
  ):
    for value in values:
      one_of(flag, value, names)
  return s


def measure(**given: Any) -> dict[str, Any]:
  """Compiles the steps of each model, and times them in turn."""
  device = jax.local_devices()[0]
  torch, reason = torch_step.find_torch(device)
  if torch is None:
    raise UsageError(f'--suite=train compares with PyTorch: {reason}')
  s = settings(**given)
  torch_step.configure(torch, device.platform)
  rows = {}
  for name in s.models:
    timing.say(f'comparing the logits and gradients of {name}')
    rows[name] = {
      'distances': distances(s, name, torch, device),
      **_measured(s, name, torch, device),
    }
    # Both frameworks keep what they compiled, and with it the memory.
    jax.clear_caches()
    torch.compiler.reset()
    if torch.cuda.is_available():
      torch.cuda.empty_cache()
  on_cpu = device.platform == 'cpu'
  return {
    'settings': {
      **vars(s),
      'objective': {'name': 'maxsup', 'alpha': ALPHA},
      'optimizers': {n: _optimizer_of(n) for n in s.models},
      'optimizer_options': OPTIMIZERS,
      'mean': MEAN,
      'std': STD,
      'environment': {
        name: os.environ.get(name)
        for name in ('XLA_FLAGS', 'NPROC', 'OMP_NUM_THREADS')
      },
      'torch': torch.__version__,
      'torch_threads': torch.get_num_threads(),
      'torch_mkldnn': torch.backends.mkldnn.is_available(),
      'torch_cpu_capability': torch.backends.cpu.get_cpu_capability(),
      'torch_float32_matmul_precision': torch.get_float32_matmul_precision(),
    },
    'results': {
      'device_kind': device.device_kind,
      'peak_flops_per_second': costs.peak_flops(device.device_kind, s.dtype),
      'memory_bandwidth': costs.memory_bandwidth(device.device_kind),
      'matrix_flops_per_second': _matrix_rates(s, torch) if on_cpu else None,
      'on_cpu': xla_cpu.measure() if on_cpu else None,
      'models': rows,
    },
  }


def _optimizer_of(model):
  return 'adamw' if model.startswith('vit') else 'sgd'


class _Pair:
  """One model in both frameworks, with the same weights and images."""

  def __init__(self, s, name, torch, device, optimizer, options, **changes):
    self._s = timing.filled(vars(s), {'model': name})
    self._changes = changes
    self.batch = steps.synthetic_batch(s)
    self.devices = Devices([device])
    _, self.model = steps.create_model(self._s, **changes)
    made, self.state = steps.build(
      s,
      self.model,
      {'maxsup': {'name': 'maxsup', 'alpha': ALPHA}},
      optimizer,
      options,
      MEAN,
      STD,
    )
    self.step = made['maxsup']
    self._torch = torch
    self._given = {
      'platform': device.platform,
      'dtype': s.dtype,
      'optimizer': optimizer,
      'options': options,
      'alpha': ALPHA,
      'mean': MEAN,
      'std': STD,
    }

  def in_torch(self, variant):
    """The step of PyTorch."""
    from experiments.benchmark import torch_models

    name = self._s.model
    size = {'image_size': self._s.image_size} if name.startswith('vit') else {}
    return torch_step.Step(
      self._torch,
      torch_models.create(name, self._s.num_classes, **size, **self._changes),
      torch_weights.to_torch(self.state.variables(), self.model),
      self.batch,
      variant=variant,
      **self._given,
    )


def distances(s: Any, name: str, torch: Any, device: Any) -> dict[str, float]:
  """How far both frameworks are apart, in float32 without shortcuts."""
  exact = timing.filled(
    vars(s), {'dtype': 'float32', 'batch_size': min(s.batch_size, _IMAGES)}
  )
  drops = 'dropout' in models.MODELS[name].options
  changes = {'dropout': 0.0} if drops else {}
  with torch_step.exact(torch):
    pair = _Pair(exact, name, torch, device, 'sgd', _GRADIENT, **changes)
    devices, state = pair.devices, pair.devices.replicate(pair.state)
    batch = devices.shard(pair.batch)
    theirs = pair.in_torch(torch_step.variants_of(device.platform)[0])

    def forward(state, batch):
      x = (batch['image'] / 255 - np.array(MEAN, 'f')) / np.array(STD, 'f')
      (logits, _), _ = pair.model.apply(
        state.variables(), x, train=True, mutable=['batch_stats']
      )
      return logits

    logits = devices.fetch(devices.map(forward)(state, batch)), theirs.logits()
    theirs.first_step()
    after, _ = devices.map(pair.step)(state, batch)
    before, ours = (
      torch_weights.to_torch(x.variables(), pair.model)
      for x in (pair.state, devices.fetch(after))
    )
    after = theirs.parameters()
  compared = {
    'logits': [{'logits': x} for x in logits],
    'gradients': [{n: before[n] - x[n] for n in after} for x in (ours, after)],
  }
  return {what: check_arrays(what, *both) for what, both in compared.items()}


def check_arrays(
  what: str,
  ours: Mapping[str, np.ndarray],
  theirs: Mapping[str, np.ndarray],
) -> float:
  """Refuses to compare steps that compute other things.

  Returns:
    The norm of the difference over that of theirs, of all arrays together.
  """
  gaps = {n: _norm(ours[n] - x) for n, x in theirs.items()}
  size = _norm([_norm(x) for x in theirs.values()])
  distance = _norm(list(gaps.values())) / size if size else np.nan
  if not distance <= _TOLERANCES[what]:
    raise UsageError(
      f'JAX and PyTorch compute different {what}, {distance:.2g} apart '
      f'(relative), most in {max(gaps, key=gaps.get)}; expected at most '
      f'{_TOLERANCES[what]:g}'
    )
  return distance


def _norm(x):
  return float(np.linalg.norm(np.asarray(x, np.float64).ravel()))


def check_equal(
  values: Mapping[str, float], platform: str, dtype: str, least: float = 0.0
) -> None:
  """Refuses to compare steps whose losses differ by more than rounding.

  `least` is the smallest tolerance, whatever the platform's.
  """
  tolerance = max(least, _TOLERANCE.get((platform, dtype), _OTHER_TOLERANCE))
  for name, value in values.items():
    if not abs(value - values['jax']) <= tolerance * abs(values['jax']):
      raise UsageError(
        f'the steps compute different losses, {name} {value} and JAX '
        f'{values["jax"]}; expected at most {tolerance:g} apart (relative)'
      )


def _measured(s, name, torch, device):
  """A row of the results."""
  optimizer = _optimizer_of(name)
  pair = _Pair(s, name, torch, device, optimizer, OPTIMIZERS[optimizer])
  timing.say(f'compiling {name}, JAX')
  ours = steps.Runner(
    pair.step, pair.state, pair.devices.shard(pair.batch), pair.devices
  )
  reasons = {v: torch_step.lacks(v, device.platform) for v in s.variants}
  runners = {}
  for variant in s.variants:
    if reasons[variant] is None:
      timing.say(f'compiling {name}, PyTorch, {variant}')
      runners[variant] = pair.in_torch(variant)
  if not runners:
    raise UsageError(f'every variant of PyTorch fails: {reasons}')
  # The second step comes after an update by the optimizers that are timed.
  losses = []
  for least in (0.0, _AFTER_UPDATE):
    losses.append({'jax': ours.first_step()['objective']})
    losses[-1] |= {n: runner.first_step() for n, runner in runners.items()}
    check_equal(losses[-1], device.platform, s.dtype, least)
  orders, seconds = timing.time_in_turn(
    {n: x.seconds_per_step for n, x in {'jax': ours, **runners}.items()},
    s.rounds,
    s.steps_per_round,
  )
  program = ours.costs
  peak = costs.peak_flops(device.device_kind, s.dtype)
  programs = {
    n: steps.timed(values, s.batch_size, program, peak)
    for n, values in seconds.items()
  }
  for n, runner in runners.items():
    programs[n]['peak_memory_bytes'] = runner.peak_memory()
    programs[n]['torch_over_jax'] = timing.ratios(seconds[n], seconds['jax'])
  fastest = min(runners, key=lambda n: programs[n]['step_seconds']['median'])
  return {
    'parameters': models.count_parameters(pair.state.params),
    'optimizer': optimizer,
    'first_losses': losses[0],
    'second_losses': losses[1],
    'round_orders': orders,
    'not_run': {n: why for n, why in reasons.items() if why is not None},
    'programs': programs,
    'reference': fastest,
    'torch_over_jax': programs[fastest]['torch_over_jax'],
    'jax_program': program,
    'jax_peak_memory_bytes_so_far': costs.peak_memory([device]),
    'bound': costs.bound(
      program['flops_per_device']['as_written'],
      program['bytes_accessed_per_device'],
      device_kind=device.device_kind,
      dtype=s.dtype,
      batch_size=s.batch_size,
    ),
  }


def _matrix_rates(s, torch):
  """FLOP/s of a product of matrices in both frameworks."""
  array = np.random.default_rng(0).standard_normal((_MATRIX, _MATRIX), 'f')
  a = jax.numpy.asarray(array, s.dtype)
  b = torch.from_numpy(array).to(getattr(torch, s.dtype))
  product = jax.jit(lambda a: a @ a)
  timers = {
    'jax': timing.timer(lambda: product(a).block_until_ready()),
    'torch': timing.timer(lambda: b @ b),
  }
  _, seconds = timing.time_in_turn(timers, 5, 2)
  return {
    name: 2 * _MATRIX**3 / timing.summary(x)['median']
    for name, x in seconds.items()
  }


def describe(record: Mapping[str, Any]) -> list[str]:
  """What ran on what, a table for each model, and what it means."""
  results, lines = record['results'], []
  if results['matrix_flops_per_second']:
    rates = results['matrix_flops_per_second'].items()
    shown = (f'{name} {report.with_unit(x, "FLOP/s")}' for name, x in rates)
    lines.append('A product of matrices: ' + ', '.join(shown))
  for name, row in results['models'].items():
    columns = (
      *steps.STEP_COLUMNS,
      ('time over that of jax', 'torch_over_jax', report.spread('.3f')),
      ('peak memory', 'peak_memory_bytes', 'B'),
    )
    lines += ['', *report.table(row['programs'], columns, title=name)]
    lines += report.wrapped(
      f"PyTorch's fastest, {row['reference']}, over JAX: "
      f'{report.spread(".3f")(row["torch_over_jax"])}; '
      f'{target(row["torch_over_jax"], record)}',
      *(f'{n} not run: {why}' for n, why in row['not_run'].items()),
    )
    lines += report.table(
      {'': row['jax_program']}, steps.PROGRAM_COLUMNS, across=True
    )
    if row['bound']['limit']:
      lines.append(
        f'JAX takes at least {1e3 * row["bound"]["step_seconds"]:.1f} ms by '
        f"the compiler's counts, of which {row['bound']['limit']} decides"
      )
  if results['on_cpu']:
    lines += ['', *xla_cpu.describe(results['on_cpu'])]
  return lines


def target(ratio: Mapping[str, Any], record: Mapping[str, Any]) -> str:
  """Whether the target is met, which is for GPUs alone."""
  if record['hardware']['platform'] == 'cpu':
    return 'on a CPU there is no target'
  met = ratio['median'] >= _TARGET
  return f'the target, at least {_TARGET:g}, is {"met" if met else "missed"}'
