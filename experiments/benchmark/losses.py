"""The suite `losses`: value and gradient of each loss, side by side."""

import functools
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from experiments.benchmark import costs, report, timing, torch_step, tpu
from experiments.benchmark.loss_entries import LOSSES, Entry, baseline
from maxsup_jax.errors import UsageError, one_of

SHAPES = ('4096x1000', '1024x21843', '8192x32000')
KINDS = ('ours', 'composed', 'torch')

# How far values and gradients of competitors may be apart, relatively.
_TOLERANCE = 1e-3

_SEED = 0

# A turn of the baseline takes about as long, so that calls and clocks do not
# decide.
_TURN_SECONDS, _MOST_STEPS = 0.05, 200

# The rounds of a shape take about a minute, if fewer than these are not more.
_SHAPE_SECONDS, _FEWEST_ROUNDS, _MOST_ROUNDS = 60, 5, 20

# PyTorch does not tell what it will need. Eagerly, it holds a log-softmax and
# the gradient of each use of the logits.
_TORCH_COPIES = 6
# The system wants some of what is free, too.
_USABLE = 0.9
_OUT_OF_MEMORY = ('RESOURCE_EXHAUSTED', 'out of memory', "can't allocate")


def _shape(text):
  match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text.strip())
  if not match:
    raise UsageError(
      f'--shapes is {text!r}; expected EXAMPLESxCLASSES, such as 4096x1000'
    )
  return int(match[1]), int(match[2])


def measure(**given: Any) -> dict[str, Any]:
  """Compiles the losses at every shape and, on this machine, times them."""
  s = timing.filled(
    {
      'target': 'here',
      'shapes': SHAPES,
      'losses': LOSSES,
      'rounds': None,
    },
    given,
  )
  runs = one_of('--target', s.target, ('here', 'tpu')) == 'here'
  # Twice the same name is one row.
  s.losses = list(
    dict.fromkeys(one_of('--losses', x, LOSSES) for x in s.losses)
  )
  s.shapes = list(map(_shape, s.shapes))
  device = jax.local_devices()[0] if runs else tpu.devices(tpu.TOPOLOGY)[0]
  torch, no_torch = None, f'nothing runs with --target={s.target}'
  if runs:
    torch, no_torch = torch_step.find_torch(device)
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


def _measure_shape(s, device, torch, shape):
  """The section of a shape."""
  size = 4 * math.prod(shape)
  section = {
    'batch': shape[0],
    'classes': shape[1],
    'logits_bytes': size,
    # Logits and gradient at least.
    'reason': _lacks(device, 2 * size) if s.target == 'here' else None,
  }
  if section['reason']:
    return section

  def make():
    keys = jax.random.split(jax.random.key(_SEED))
    logits_BK = jax.random.normal(keys[0], shape)
    return logits_BK, jax.random.randint(keys[1], shape[:1], 0, shape[1])

  inputs = jax.jit(make)() if s.target == 'here' else jax.eval_shape(make)
  entries = {'baseline': Entry('optax CE', baseline)}
  entries |= {name: LOSSES[name] for name in s.losses}
  rows, timers, first = {}, {}, {}
  for name, entry in entries.items():
    timing.say(f'compiling {name}')
    rows[name], ready = _compiled(entry, s, device, torch, inputs, size)
    found = {}
    for kind, step in ready.items():
      try:
        found[kind] = _first(step)
      except RuntimeError as e:
        if not any(text in str(e) for text in _OUT_OF_MEMORY):
          raise
        rows[name][kind]['reason'] = 'it ran out of memory'
        continue
      rows[name][kind]['value'] = found[kind][0]
      if 'ours' in found:
        _check(name, kind, found['ours'], found[kind])
      timers[name, kind] = _timer(step, torch, device)
      first[name, kind] = timers[name, kind](1)
  base = rows['baseline']['ours']
  if base['reason']:
    return {**section, 'reason': base['reason']}
  seconds = {}
  if timers:
    count = int(_TURN_SECONDS / first['baseline', 'ours'])
    count = max(min(count, _MOST_STEPS), 1)
    one_round = count * sum(first.values())
    rounds = int(_SHAPE_SECONDS / one_round)
    rounds = s.rounds or max(min(rounds, _MOST_ROUNDS), _FEWEST_ROUNDS)
    section |= {'rounds': rounds, 'steps_per_round': count}
    seconds = timing.time_in_turn(timers, rounds, count)

  def over(a, b):
    both = a in seconds and b in seconds
    return timing.ratios(seconds[a], seconds[b]) if both else None

  for name, kinds in rows.items():
    for kind, row in kinds.items():
      if row:
        times = seconds.get((name, kind))
        row |= {
          'bytes_ratio': row['passes'] and row['passes'] / base['passes'],
          'seconds': times and timing.summary(times),
          'ratio_to_baseline': over((name, kind), ('baseline', 'ours')),
        }
  return {
    **section,
    'baseline': base,
    'losses': {
      name: {
        'title': entries[name].title,
        **rows[name],
        **{
          f'ratio_to_{kind}': over((name, 'ours'), (name, kind))
          for kind in KINDS[1:]
        },
      }
      for name in s.losses
    },
  }


def _compiled(entry, s, device, torch, inputs, size):
  """A row of each kind of a loss, and the step of those that can be run."""
  runs, shape = s.target == 'here', inputs[0].shape
  key = jax.random.key(_SEED)
  make = jax.jit(lambda: [entry.extras(key, *shape)] if entry.extras else [])
  shapes = (*inputs, *jax.eval_shape(make))
  rows, steps, everything = dict.fromkeys(KINDS), {}, None
  for kind, loss in zip(KINDS, (entry.loss, entry.composition, entry.torch)):
    if loss is None or (kind == 'torch' and torch is None):
      continue
    program, accessed, memory = None, None, {}
    if kind != 'torch':
      program = compile_loss(device, loss, shapes)
      accessed = costs.counted(program, 'bytes accessed')
      memory = costs.memory(program) or {}
    # The gradient is as large as the logits; extras are made of others.
    needs = 2 * memory.get('arguments', 0) + memory.get('temporaries', 0)
    rows[kind] = {
      'reason': _lacks(device, needs or _TORCH_COPIES * size) if runs else None,
      'value': None,
      'bytes_accessed': accessed,
      'passes': accessed and accessed / size,
      'temporaries_share': memory['temporaries'] / size if memory else None,
    }
    if runs and not rows[kind]['reason']:
      everything = everything or (*inputs, *make())
      steps[kind] = (
        torch_loss(torch, loss, everything)
        if kind == 'torch'
        else functools.partial(program, *everything)
      )
  return rows, steps


def _lacks(device, needed):
  """The reason why something of so many bytes is not run, or None."""
  free = free_memory(device)
  if free is None or needed <= free:
    return None
  return f'it needs {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free'


def _first(step):
  """Value and first gradients; all of them would fill the memory."""
  value, gradient = step()
  rows = gradient[:64]
  rows = rows if isinstance(rows, jax.Array) else rows.cpu().float()
  return float(value), np.asarray(rows, np.float64)


def _timer(step, torch, device):
  last = []

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


def _check(name, kind, ours, other):
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

  where = dict.fromkeys(
    ('in_shardings', 'out_shardings'), SingleDeviceSharding(device)
  )
  return jax.jit(program, **where).lower(*inputs).compile()


def torch_loss(torch: Any, loss: Callable, inputs: Any) -> Callable[[], Any]:
  """The same of a loss in PyTorch, as it comes: not compiled."""
  logits, labels, *extras = map(torch.from_dlpack, inputs)
  logits, labels = logits.requires_grad_(), labels.to(torch.int64)

  def step():
    mean = loss(torch, logits, labels, *extras).mean()
    (gradient,) = torch.autograd.grad(mean, logits)
    return mean.detach(), gradient

  return step


def free_memory(device: jax.Device) -> float | None:
  """The bytes that a program may still take; None where nobody tells."""
  stats = device.memory_stats() or {}
  if 'bytes_limit' in stats:
    return _USABLE * (stats['bytes_limit'] - stats['bytes_in_use'])
  path = pathlib.Path('/proc/meminfo')
  text = path.read_text() if path.exists() else ''
  found = re.search(r'MemAvailable: *(\d+)', text)
  return found and _USABLE * 1024 * int(found[1])


def describe(record: Mapping[str, Any]) -> list[str]:
  """A table for each shape, and what it means."""
  lines = [f'Value and gradient on {record["results"]["device_kind"]}']
  columns = (
    ('time', 'ratio_to_baseline', report.spread('.2f')),
    ('bytes', 'bytes_ratio', '.3f'),
    ('passes', 'passes', '.2f'),
    ('temp.', 'temporaries_share', '.1%'),
    ('torch', 'ratio_to_torch.median', '.2f'),
    ('', 'reason', lambda reason: f'not measured, {reason}'),
  )
  for shape in record['results']['shapes']:
    rows = {}
    if not shape['reason']:
      rows['optax CE'] = {**shape['baseline'], 'reason': None}
    for loss in shape.get('losses', {}).values():
      torch = {'ratio_to_torch': loss['ratio_to_torch']}
      rows[loss['title']] = {**loss['ours'], **torch}
      if loss['composed']:
        rows[f'  composed {loss["title"]}'] = loss['composed']
    title = f'[{shape["batch"]}, {shape["classes"]}]'
    table = report.table(rows or {'': shape}, columns, title=title)
    lines += ['', *table]
  return [
    *lines,
    '',
    'Time and bytes: over those of optax CE; torch: time over that of PyTorch.',
    'passes, temp.: bytes accessed, temporary memory, in sizes of the logits.',
  ]
