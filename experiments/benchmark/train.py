"""The suite `train`: the training step beside the same one in PyTorch."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.benchmark import costs, report, timing, torch_step
from experiments.benchmark import step as steps
from maxsup_jax import models
from maxsup_jax.errors import UsageError, one_of
from maxsup_jax.models import torch_weights
from maxsup_jax.training.parallel import Devices

Arrays = Mapping[str, np.ndarray]
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
# As in PyTorch, all parameters decay.
_ALL = 'kernel', 'bias', 'normalization', 'embedding'
# Of so many images at most, and of an SGD whose step is the gradient.
_IMAGES = 16
_GRADIENT = {
  'learning_rate': 1.0,
  'weight_decay': 0.0,
  'momentum': 0.0,
  'nesterov': False,
}


def measure(*, model: str | None = None, **given: Any) -> dict[str, Any]:
  """Compiles the steps of each model, and times them in turn."""
  device = jax.local_devices()[0]
  torch, reason = torch_step.find_torch(device)
  if torch is None:
    raise UsageError(f'--suite=train compares with PyTorch: {reason}')
  from experiments.benchmark import torch_models

  on_cpu, names = device.platform == 'cpu', (model,) if model else MODELS
  s = timing.filled(
    {
      'models': [one_of('--model', x, torch_models.MODELS) for x in names],
      'image_size': 224,
      'batch_size': 8 if on_cpu else 256,
      'num_classes': 1000,
      'dtype': 'float32' if on_cpu else 'bfloat16',
      'rounds': 5 if on_cpu else 12,
      'steps_per_round': 1 if on_cpu else 20,
    },
    given,
  )
  torch.backends.cudnn.benchmark = True
  if device.platform == 'gpu':
    # float32 is TF32 then, as by JAX's default.
    torch.set_float32_matmul_precision('high')
    torch.backends.cudnn.allow_tf32 = True
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
  return {
    'settings': {
      **vars(s),
      'alpha': ALPHA,
      'optimizer_options': OPTIMIZERS,
      'torch': torch.__version__,
      'torch_threads': torch.get_num_threads(),
    },
    'results': {'device_kind': device.device_kind, 'models': rows},
  }


def _pair(s, name, torch, device, optimizer, options, **changes):
  """The run of JAX, its step compiled, and what makes that of PyTorch."""
  from experiments.benchmark import torch_models

  s = timing.filled(vars(s), {'model': name, 'model_options': changes})
  run = steps.synthetic_run(
    s,
    Devices([device]),
    objective={'name': 'maxsup', 'alpha': ALPHA},
    optimizer={'name': optimizer, 'decay': _ALL, **options},
    dataset={'mean': MEAN, 'std': STD},
  )
  ours = steps.Runner(run)
  size = {'image_size': s.image_size} if name.startswith('vit') else {}

  def in_torch(variant):
    return torch_step.Step(
      torch,
      torch_models.create(name, s.num_classes, **size, **changes),
      torch_weights.to_torch(ours.first_state.variables(), run.task.model),
      ours.batch,
      variant=variant,
      platform=device.platform,
      dtype=s.dtype,
      optimizer=optimizer,
      options=options,
      alpha=ALPHA,
      mean=MEAN,
      std=STD,
    )

  return run, ours, in_torch


def distances(s: Any, name: str, torch: Any, device: Any) -> dict[str, float]:
  """How far both frameworks are apart, in float32 without shortcuts."""
  exact = timing.filled(
    vars(s), {'dtype': 'float32', 'batch_size': min(s.batch_size, _IMAGES)}
  )
  drops = 'dropout' in models.MODELS[name].options
  changes = {'dropout': 0.0} if drops else {}
  with torch_step.exact(torch):
    run, ours, in_torch = _pair(
      exact, name, torch, device, 'sgd', _GRADIENT, **changes
    )
    theirs = in_torch(torch_step.variants_of(device.platform)[0])

    def forward(state, batch):
      x = (batch['image'] / 255 - np.array(MEAN, 'f')) / np.array(STD, 'f')
      (logits, _), _ = run.task.model.apply(
        state.variables(), x, train=True, mutable=['batch_stats']
      )
      return logits

    batch = run.devices.shard(ours.batch)
    logits = run.devices.fetch(run.devices.map(forward)(ours.state, batch))
    compared = {'logits': [{'logits': x} for x in (logits, theirs.logits())]}
    ours.first_step()
    theirs.first_step()
    before, after = (
      torch_weights.to_torch(x.variables(), run.task.model)
      for x in (ours.first_state, run.devices.fetch(ours.state))
    )
    theirs = theirs.parameters()
  compared['gradients'] = [
    {n: before[n] - x[n] for n in theirs} for x in (after, theirs)
  ]
  return {what: check_arrays(what, *both) for what, both in compared.items()}


def check_arrays(what: str, ours: Arrays, theirs: Arrays) -> float:
  """Refuses steps that compute other things; gives the relative distance."""
  gaps = {n: _norm(ours[n] - x) for n, x in theirs.items()}
  size = _norm([_norm(x) for x in theirs.values()])
  distance = _norm(list(gaps.values())) / size if size else np.nan
  if not distance <= _TOLERANCES[what]:
    raise UsageError(
      f'JAX and PyTorch compute different {what}, {distance:.2g} apart, '
      f'relatively, and most in {max(gaps, key=gaps.get)}; expected at most '
      f'{_TOLERANCES[what]:g}'
    )
  return distance


def _norm(x):
  return float(np.linalg.norm(np.asarray(x, np.float64).ravel()))


def check_equal(
  values: Mapping[str, float], platform: str, dtype: str, least: float = 0.0
) -> None:
  """Refuses steps whose losses differ by more than rounding, or `least`."""
  tolerance = max(least, _TOLERANCE.get((platform, dtype), _OTHER_TOLERANCE))
  for name, value in values.items():
    if not abs(value - values['jax']) <= tolerance * abs(values['jax']):
      raise UsageError(
        f'the steps compute different losses, {name} {value} and JAX '
        f'{values["jax"]}; expected at most {tolerance:g} apart, relatively'
      )


def _measured(s, name, torch, device):
  """A row of the results."""
  optimizer = 'adamw' if name.startswith('vit') else 'sgd'
  timing.say(f'compiling {name}, JAX')
  _, ours, in_torch = _pair(
    s, name, torch, device, optimizer, OPTIMIZERS[optimizer]
  )
  runners, not_run = {'jax': ours}, {}
  for variant in torch_step.variants_of(device.platform):
    if reason := torch_step.lacks(variant, device.platform):
      not_run[variant] = reason
    else:
      timing.say(f'compiling {name}, PyTorch, {variant}')
      runners[variant] = in_torch(variant)
  # The second step comes after an update by the optimizers that are timed.
  losses = []
  for least in (0.0, _AFTER_UPDATE):
    losses.append({n: runner.first_step() for n, runner in runners.items()})
    losses[-1]['jax'] = losses[-1]['jax']['objective']
    check_equal(losses[-1], device.platform, s.dtype, least)
  timers = {n: runner.seconds_per_step for n, runner in runners.items()}
  seconds = timing.time_in_turn(timers, s.rounds, s.steps_per_round)
  peak = costs.peak_flops(device.device_kind, s.dtype)
  programs = {
    n: {
      **steps.timed(values, s.batch_size, ours.costs, peak),
      'torch_over_jax': timing.ratios(values, seconds['jax']),
    }
    for n, values in seconds.items()
  }
  medians = {n: programs[n]['step_seconds']['median'] for n in runners}
  fastest = min((n for n in runners if n != 'jax'), key=medians.get)
  return {
    'optimizer': optimizer,
    'first_losses': losses[0],
    'second_losses': losses[1],
    'not_run': not_run,
    'programs': programs,
    'reference': fastest,
    'torch_over_jax': programs[fastest]['torch_over_jax'],
    'jax_program': ours.costs,
  }


def describe(record: Mapping[str, Any]) -> list[str]:
  """A table for each model, and what it means."""
  columns = (
    *steps.STEP_COLUMNS,
    ('time over that of jax', 'torch_over_jax', report.spread('.3f')),
  )
  s, lines = record['settings'], []
  for name, row in record['results']['models'].items():
    lines += report.table(row['programs'], columns, title=name, across=True)
    lines += [f'{n} was not run: {why}' for n, why in row['not_run'].items()]
    lines.append('')
  return [
    *lines,
    f'Steps of {s["batch_size"]} images, {s["dtype"]}; PyTorch {s["torch"]}, '
    f'{s["torch_threads"]} threads.',
  ]
