"""The suite `train`: the training step beside the same one in PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch

from experiments.benchmark import costs, timing, torch_models, torch_step
from experiments.benchmark import step as steps
from maxsup_jax import models
from maxsup_jax.errors import UsageError, one_of
from maxsup_jax.models import torch_weights
from maxsup_jax.training.parallel import Devices

Arrays = Mapping[str, np.ndarray]
MODELS = ('resnet50', 'vit_small')
_SGD = {'learning_rate': 1e-3, 'weight_decay': 1e-4, 'momentum': 0.9}
OPTIMIZERS = {
  'sgd': {**_SGD, 'nesterov': False},
  'adamw': {'learning_rate': 1e-3, 'weight_decay': 0.05},
}

# How far apart both frameworks may be, relatively. With equal weights and
# images, what is left is rounding. Of fresh weights the losses are near log K
# whatever is computed, so logits and gradients are compared, too, in float32.
# The gradients of deep fresh networks with BatchNorm amplify rounding: those of
# ResNet-50 are 0.04 off those in float64, and its losses after an update 0.003.
_LOGITS, _GRADIENTS, _AFTER_UPDATE = 1e-3, 0.2, 2e-2
# As in PyTorch, all parameters decay.
_ALL = 'kernel', 'bias', 'normalization', 'embedding'
# Of so many images at most, and of an SGD whose step is the gradient.
_IMAGES = 16
_GRADIENT = {'learning_rate': 1.0, 'weight_decay': 0.0, 'momentum': 0.0}
_GRADIENT |= {'nesterov': False}


def measure(*, model: str | None = None, **given: Any) -> dict[str, Any]:
  """Compiles the steps of each model, and times them in turn."""
  device = jax.local_devices()[0]
  if reason := costs.find_torch(device)[1]:
    raise UsageError(f'--suite=train compares with PyTorch: {reason}')
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
  if not on_cpu:
    # float32 is TF32 then, as by JAX's default.
    torch.set_float32_matmul_precision('high')
    torch.backends.cudnn.allow_tf32 = True
  rows = {}
  for name in s.models:
    timing.say(f'comparing the logits and gradients of {name}')
    rows[name] = {
      'distances': distances(s, name, device),
      **_measured(s, name, device),
    }
    # Both frameworks keep what they compiled, and with it the memory.
    jax.clear_caches()
    torch.compiler.reset()
    torch.cuda.empty_cache()
  return {
    'settings': {
      **vars(s),
      'alpha': torch_step.ALPHA,
      'optimizer_options': OPTIMIZERS,
      'torch': torch.__version__,
      'torch_threads': torch.get_num_threads(),
    },
    'results': {'device_kind': device.device_kind, 'models': rows},
  }


def _pair(
  s: Any,
  name: str,
  device: jax.Device,
  optimizer: str,
  options: Mapping[str, Any],
  **changes: Any,
) -> tuple[Any, steps.Runner, Callable[[str], Any]]:
  """The run of JAX, its step compiled, and what makes that of PyTorch."""
  s = timing.filled(vars(s), {'model': name, 'model_options': changes})
  run = steps.synthetic_run(
    s,
    Devices([device]),
    objective={'name': 'maxsup', 'alpha': torch_step.ALPHA},
    optimizer={'name': optimizer, 'decay': _ALL, **options},
    dataset={'mean': torch_step.MEAN, 'std': torch_step.STD},
  )
  ours = steps.Runner(run)
  size = {'image_size': s.image_size} if name.startswith('vit') else {}

  def in_torch(variant):
    return torch_step.Step(
      torch_models.create(name, s.num_classes, **size, **changes),
      torch_weights.to_torch(ours.first_state.variables(), run.task.model),
      ours.batch,
      platform=device.platform,
      dtype=s.dtype,
      optimizer=optimizer,
      options=options,
      variant=variant,
    )

  return run, ours, in_torch


def distances(s: Any, name: str, device: jax.Device) -> dict[str, float]:
  """How far both frameworks are apart, in float32 without shortcuts."""
  exact = timing.filled(
    vars(s), {'dtype': 'float32', 'batch_size': min(s.batch_size, _IMAGES)}
  )
  drops = 'dropout' in models.MODELS[name].options
  changes = {'dropout': 0.0} if drops else {}
  with torch_step.exact():
    run, ours, in_torch = _pair(
      exact, name, device, 'sgd', _GRADIENT, **changes
    )
    theirs = in_torch(torch_step.variants_of(device.platform)[0])
    mean, std = np.array(torch_step.MEAN, 'f'), np.array(torch_step.STD, 'f')

    def forward(state, batch):
      (logits, _), _ = run.task.model.apply(
        state.variables(),
        (batch['image'] / 255 - mean) / std,
        train=True,
        mutable=['batch_stats'],
      )
      return logits

    batch = run.devices.shard(ours.batch)
    logits = run.devices.fetch(run.devices.map(forward)(ours.state, batch))
    found = check('logits', {'logits': logits}, {'logits': theirs.logits()})
    ours.first_step()
    theirs.first_step()
    before, after = (
      torch_weights.to_torch(x.variables(), run.task.model)
      for x in (ours.first_state, run.devices.fetch(ours.state))
    )
    moved = theirs.parameters()
  gradients = ({n: before[n] - x[n] for n in moved} for x in (after, moved))
  return {
    'logits': found,
    'gradients': check('gradients', *gradients, limit=_GRADIENTS),
  }


def check(
  what: str, ours: Arrays, theirs: Arrays, limit: float = _LOGITS
) -> float:
  """Refuses steps that compute other things; gives the relative distance."""
  gaps = {n: _norm(ours[n] - x) for n, x in theirs.items()}
  size = _norm([_norm(x) for x in theirs.values()])
  distance = _norm(list(gaps.values())) / size if size else np.nan
  if not distance <= limit:
    raise UsageError(
      f'JAX and PyTorch compute different {what}, {distance:.2g} apart, '
      f'relatively, and most in {max(gaps, key=gaps.__getitem__)}; expected at '
      f'most {limit:g}'
    )
  return distance


def _norm(x: Any) -> float:
  return float(np.linalg.norm(np.asarray(x, np.float64).ravel()))


def _measured(s: Any, name: str, device: jax.Device) -> dict[str, Any]:
  """A row of the results."""
  optimizer = 'adamw' if name.startswith('vit') else 'sgd'
  timing.say(f'compiling {name}, JAX')
  _, ours, in_torch = _pair(s, name, device, optimizer, OPTIMIZERS[optimizer])
  runners: dict[str, Any] = {'jax': ours}
  for variant in torch_step.variants_of(device.platform):
    timing.say(f'compiling {name}, PyTorch, {variant}')
    runners[variant] = in_torch(variant)
  # GPUs multiply in TF32.
  exact = (device.platform, s.dtype) == ('cpu', 'float32')
  # The second step comes after an update by the optimizers that are timed.
  losses = []
  for limit in (1e-4 if exact else 2e-2, _AFTER_UPDATE):
    losses.append({n: runner.first_step() for n, runner in runners.items()})
    losses[-1]['jax'] = losses[-1]['jax']['objective']
    for n, loss in losses[-1].items():
      check('losses', {n: losses[-1]['jax']}, {n: loss}, limit)
  timers = {n: runner.seconds_per_step for n, runner in runners.items()}
  seconds = timing.time_in_turn(timers, s.rounds, s.steps_per_round)
  peak = costs.peak_flops(device.device_kind, s.dtype)
  programs, medians = {}, {}
  for n, values in seconds.items():
    programs[n] = steps.timed(values, s.batch_size, ours.costs, peak)
    programs[n]['torch_over_jax'] = timing.ratios(values, seconds['jax'])
    medians[n] = programs[n]['step_seconds']['median']
  fastest = min(set(medians) - {'jax'}, key=medians.__getitem__)
  return {
    'optimizer': optimizer,
    'first_losses': losses[0],
    'second_losses': losses[1],
    'programs': programs,
    'reference': fastest,
    'torch_over_jax': programs[fastest]['torch_over_jax'],
    'jax_program': ours.costs,
  }
