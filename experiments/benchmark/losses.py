"""The suite `losses`: value and gradient of each loss, side by side."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from experiments.benchmark import costs, timing, tpu
from experiments.benchmark.loss_entries import LOSSES, Entry, baseline
from maxsup_jax.errors import UsageError, one_of

# On CPUs, the last would take minutes a step and tens of gigabytes.
SHAPES = ('4096x1000', '1024x21843', '8192x32000')
KINDS = ('ours', 'torch')

# How far values and gradients of competitors may be apart, relatively.
_TOLERANCE = 1e-3


def _shape(text: str) -> tuple[int, int]:
  match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text.strip())
  if not match:
    raise UsageError(
      f'--shapes is {text!r}; expected EXAMPLESxCLASSES, such as 4096x1000'
    )
  shape = int(match[1]), int(match[2])
  if math.prod(shape) >= 2**31:
    raise UsageError(
      f'--shapes is {text!r}; expected at most 2147483647 numbers'
    )
  return shape


def measure(**given: Any) -> dict[str, Any]:
  """Compiles the losses at every shape and, on this machine, times them."""
  on_cpu = given.get('target') != 'tpu' and jax.default_backend() == 'cpu'
  s = timing.filled(
    {
      'target': 'here',
      'shapes': SHAPES[: 2 if on_cpu else 3],
      'losses': LOSSES,
      'rounds': 10,
    },
    given,
  )
  runs = one_of('--target', s.target, ('here', 'tpu')) == 'here'
  # Twice the same name is one row.
  names = dict.fromkeys(one_of('--losses', x, LOSSES) for x in s.losses)
  s.losses = list(names)
  s.shapes = list(map(_shape, s.shapes))
  torch, no_torch = None, f'nothing runs with --target={s.target}'
  if runs:
    device = jax.local_devices()[0]
    torch, no_torch = costs.find_torch(device)
  else:
    device = tpu.devices(tpu.TOPOLOGY)[0]
  shapes = []
  for shape in s.shapes:
    timing.say(f'{list(shape)}')
    shapes.append(_measure_shape(s, device, torch, shape))
    # JAX keeps what it traced and compiled, and with it the memory.
    jax.clear_caches()
  return {
    'settings': {
      **vars(s),
      'torch': torch and torch.__version__,
      'torch_threads': torch and torch.get_num_threads(),
      'no_torch': no_torch,
    },
    'results': {'device_kind': device.device_kind, 'shapes': shapes},
  }


def _measure_shape(
  s: Any, device: jax.Device, torch: Any, shape: tuple[int, int]
) -> dict[str, Any]:
  """The section of a shape."""

  def make():
    keys = jax.random.split(jax.random.key(0))
    logits_BK = jax.random.normal(keys[0], shape)
    return logits_BK, jax.random.randint(keys[1], shape[:1], 0, shape[1])

  inputs = jax.jit(make)() if s.target == 'here' else jax.eval_shape(make)
  entries = {'baseline': Entry('optax CE', baseline)}
  entries |= {name: LOSSES[name] for name in s.losses}
  rows, timers = {}, {}
  for name, entry in entries.items():
    timing.say(f'compiling {name}')
    rows[name], steps = _compiled(entry, s, device, torch, inputs)
    found = {kind: _first(step) for kind, step in steps.items()}
    for kind, step in steps.items():
      rows[name][kind]['value'] = found[kind][0]
      _check(name, kind, found['ours'], found[kind])
      timers[name, kind] = _timer(step, torch, device)
  base, count, seconds = rows['baseline']['ours'], None, {}
  if timers:
    # A turn of the baseline takes 0.05 s, so that calls and clocks do not
    # decide.
    count = max(min(int(0.05 / timers['baseline', 'ours'](1)), 200), 1)
    seconds = timing.time_in_turn(timers, s.rounds, count)

  def over(a, b):
    both = a in seconds and b in seconds
    return timing.ratios(seconds[a], seconds[b]) if both else None

  for name, kinds in rows.items():
    for kind, row in kinds.items():
      if row:
        times, passes = seconds.get((name, kind)), row['passes']
        row['bytes_ratio'] = passes and passes / base['passes']
        row['seconds'] = times and timing.summary(times)
        row['ratio_to_baseline'] = over((name, kind), ('baseline', 'ours'))
    kinds['title'] = entries[name].title
    kinds['ratio_to_torch'] = over((name, 'ours'), (name, 'torch'))
  del rows['baseline']
  return {
    **{'batch': shape[0], 'classes': shape[1]},
    'logits_bytes': 4 * math.prod(shape),
    'steps_per_round': count,
    'baseline': base,
    'losses': rows,
  }


def _compiled(
  entry: Entry, s: Any, device: jax.Device, torch: Any, inputs: Any
) -> tuple[dict[str, Any], dict[str, Callable[[], Any]]]:
  """A row of each kind of a loss, and the step of those that can be run."""
  shape, key = inputs[0].shape, jax.random.key(0)
  size = 4 * math.prod(shape)
  make = jax.jit(lambda: [entry.extras(key, *shape)] if entry.extras else [])
  shapes = (*inputs, *jax.eval_shape(make))
  rows, steps, everything = dict.fromkeys(KINDS), {}, None
  for kind, loss in zip(KINDS, (entry.loss, entry.torch)):
    if loss is None or (kind == 'torch' and torch is None):
      continue
    program, accessed, memory = None, None, {}
    if kind == 'ours':
      program = compile_loss(device, loss, shapes)
      accessed = costs.counted(program)
      memory = costs.memory(program) or {}
    rows[kind] = {
      'value': None,
      'bytes_accessed': accessed,
      'passes': accessed and accessed / size,
      'temporaries_share': memory['temporaries'] / size if memory else None,
    }
    if s.target == 'here':
      everything = everything or (*inputs, *make())
      if kind == 'torch':
        steps[kind] = torch_loss(torch, loss, everything)
      else:
        steps[kind] = functools.partial(program, *everything)
  return rows, steps


def _first(step: Callable[[], Any]) -> tuple[float, np.ndarray]:
  """Value and first gradients; all of them would fill the memory."""
  value, gradient = step()
  rows = gradient[:64]
  rows = rows if isinstance(rows, jax.Array) else rows.cpu().float()
  return float(value), np.asarray(rows, np.float64)


def _timer(
  step: Callable[[], Any], torch: Any, device: jax.Device
) -> Callable[[int], float]:
  last: list[Any] = []

  def wait():
    jax.block_until_ready(last)
    if torch and torch.cuda.is_available():
      torch.cuda.synchronize()
    last.clear()

  def take():
    last.clear()  # Or two gradients would be held.
    last.append(step())
    if device.platform == 'cpu':
      # Steps in flight would share the cores, and hold a gradient each.
      wait()

  return timing.timer(take, wait)


def _check(name: str, kind: str, ours: Any, other: Any) -> None:
  """Refuses a competitor whose value or first gradients are not ours."""
  values = abs(other[0] - ours[0]) / max(abs(ours[0]), 1e-6)
  rows = np.linalg.norm(other[1] - ours[1]) / np.linalg.norm(ours[1])
  if not max(values, rows) <= _TOLERANCE:
    raise UsageError(
      f'{name}: ours and {kind} are {values:.2g} apart in value and {rows:.2g} '
      f'in gradients, relatively; expected at most {_TOLERANCE:g}'
    )


def compile_loss(device: jax.Device, loss: Callable, inputs: Any) -> Any:
  """Compiles the mean loss and its gradient; the device need not exist."""

  def program(logits, labels, *extras):
    def mean(z):
      return jnp.mean(loss(z, labels, *extras), dtype=jnp.float32)

    return jax.value_and_grad(mean)(logits)

  here = SingleDeviceSharding(device)
  mapped = jax.jit(program, in_shardings=here, out_shardings=here)
  return mapped.lower(*inputs).compile()


def torch_loss(torch: Any, loss: Callable, inputs: Any) -> Callable[[], Any]:
  """The same of a loss in PyTorch, as it comes: not compiled."""
  logits, labels, *extras = map(torch.from_dlpack, inputs)
  logits, labels = logits.requires_grad_(), labels.to(torch.int64)

  def step():
    mean = loss(torch, logits, labels, *extras).mean()
    (gradient,) = torch.autograd.grad(mean, logits)
    return mean.detach(), gradient

  return step
