"""The suite `losses`: value and gradient of each loss, side by side."""

import dataclasses
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

DTYPES = ('float32', 'bfloat16')
SHAPES = ('4096x1000', '1024x21843', '8192x32000')
KINDS = ('ours', 'composed', 'torch')

# Reading the logits for the sum of exponentials, reading them again for the
# gradient, and writing it.
LIMIT_PASSES = 3

# How far values and gradients of competitors may be apart, relatively to the
# baseline's: of another order of sums, and of TF32 or bfloat16.
_TOLERANCES = {'float32': 1e-3, 'bfloat16': 5e-2}

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


def settings(**given: Any) -> Any:
  """Reads the flags; None takes the default."""
  s = timing.filled(
    {
      'target': 'here',
      'shapes': SHAPES,
      'losses': LOSSES,
      'dtype': DTYPES[0],
      'rounds': None,
      'steps_per_round': None,
    },
    given,
  )
  one_of('--target', s.target, ('here', 'tpu'))
  one_of('--dtype', s.dtype, DTYPES)
  # Twice the same name is one row.
  s.losses = tuple(
    dict.fromkeys(one_of('--losses', x, LOSSES) for x in s.losses)
  )
  s.shapes = tuple(map(shape_of, s.shapes))
  return s


def shape_of(text: str, low: tuple[int, int] = (1, 1)) -> tuple[int, int]:
  """Reads such as 64x10, with the smallest allowed."""
  match = re.fullmatch(r'(\d+)x(\d+)', text.strip())
  shape = tuple(map(int, match.groups())) if match else (0, 0)
  if shape[0] < low[0] or shape[1] < low[1]:
    raise UsageError(
      f'--shapes is {text!r}; expected EXAMPLESxCLASSES, such as 4096x1000 '
      f'and at least {low[0]}x{low[1]}'
    )
  return shape


def measure(**given: Any) -> dict[str, Any]:
  """Compiles the losses at every shape and, on this machine, times them."""
  s = settings(**given)
  runs = s.target == 'here'
  device = jax.local_devices()[0] if runs else tpu.devices(tpu.TOPOLOGY)[0]
  torch, no_torch = None, f'nothing runs with --target={s.target}'
  if runs:
    torch, no_torch = torch_step.find_torch(device)
  shapes = []
  for shape in s.shapes:
    timing.say(f'{list(shape)}')
    shapes.append(_Shape(s, device, torch, *shape).measure())
    # JAX keeps what it traced and compiled, and with it the memory.
    jax.clear_caches()
  return {
    'settings': {
      **vars(s),
      'torch': torch and torch.__version__,
      'torch_threads': torch and torch.get_num_threads(),
      'no_torch': no_torch,
    },
    'results': {
      'platform': device.platform,
      'device_kind': device.device_kind,
      'memory_bandwidth': costs.memory_bandwidth(device.device_kind),
      'shapes': shapes,
    },
  }


class _Shape:
  """The losses at one shape, each by `KINDS`."""

  def __init__(self, s, device, torch, batch, classes):
    self._s, self._device, self._torch = s, device, torch
    self._shape = batch, classes
    self._bytes = batch * classes * jnp.dtype(s.dtype).itemsize
    self._runs = s.target == 'here'

  def measure(self) -> dict[str, Any]:
    """The section of this shape."""
    batch, classes = self._shape
    section = {
      'batch': batch,
      'classes': classes,
      'logits_bytes': self._bytes,
      # Logits and gradient at least.
      'reason': self._lacks(2 * self._bytes),
    }
    if section['reason']:
      return section

    def make():
      keys = jax.random.split(jax.random.key(_SEED))
      logits_BK = jax.random.normal(keys[0], self._shape, self._s.dtype)
      return logits_BK, jax.random.randint(keys[1], (batch,), 0, classes)

    inputs = jax.jit(make)() if self._runs else jax.eval_shape(make)
    base = self._programs('baseline', Entry('', baseline), inputs)['ours']
    if base.reason:
      return {**section, 'reason': base.reason}
    losses = {n: self._programs(n, LOSSES[n], inputs) for n in self._s.losses}
    if self._runs:
      everything = {'baseline ours': base} | {
        f'{name} {kind}': program
        for name, programs in losses.items()
        for kind, program in programs.items()
      }
      ready = {n: x for n, x in everything.items() if x.reason is None}
      section |= self._time(base, ready)
    bandwidth = costs.memory_bandwidth(self._device.device_kind)
    section['limit_bytes'] = LIMIT_PASSES * self._bytes
    limit = section['limit_bytes'] / bandwidth if bandwidth else None
    section |= {
      'limit_seconds': limit,
      'baseline': self._row(base, base, limit),
    }
    section['losses'] = {
      name: {
        'title': LOSSES[name].title,
        **{kind: self._row(programs.get(kind), base, limit) for kind in KINDS},
        **{
          f'ratio_to_{kind}': _over(programs['ours'], programs.get(kind))
          for kind in KINDS[1:]
        },
      }
      for name, programs in losses.items()
    }
    return section

  def _lacks(self, needed):
    """The reason why something of so many bytes is not run, or None."""
    free = free_memory(self._device) if self._runs else None
    if free is None or needed <= free:
      return None
    return f'it needs {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free'

  def _programs(self, name, entry, inputs):
    """What competes, compiled and run once, by kind."""
    extras, most = None, entry.largest_classes
    if most and self._shape[1] > most:
      return {'ours': _Program(reason=f'measured up to K = {most}')}
    if entry.extras:
      key = jax.random.key(_SEED)
      make = jax.jit(lambda: entry.extras(key, *self._shape))
      extras = jax.eval_shape(make)
      size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(extras))
      if lacks := self._lacks(size):
        return {'ours': _Program(reason=lacks)}
      extras = make() if self._runs else extras
    inputs, programs = (*inputs, extras), {}
    for kind, loss in (('ours', entry.loss), ('composed', entry.composition)):
      if loss is not None:
        timing.say(f'compiling {name}, {kind}')
        compiled = compile_loss(self._device, loss, inputs)
        memory = costs.memory(compiled) or {}
        needs = memory.get('temporaries', 0) + memory.get('outputs', 0)
        programs[kind] = _Program(
          compiled, lambda p=compiled: p(*inputs), needs
        )
    if self._torch and entry.torch:
      step = torch_loss(self._torch, entry.torch, inputs)
      programs['torch'] = _Program(None, step, _TORCH_COPIES * self._bytes)
    if self._runs:
      for program in programs.values():
        self._try(program)
      for kind, program in programs.items():
        _check(name, kind, programs['ours'], program, self._s.dtype)
    return programs

  def _try(self, program):
    """Runs a program twice, or notes why it cannot be run."""
    program.reason = self._lacks(program.needs)
    if program.reason:
      return
    try:
      value, gradient = program.step()
      rows = gradient[:64]  # All would fill the memory.
      rows = rows if isinstance(rows, jax.Array) else rows.cpu().float()
      program.value, program.rows = float(value), np.asarray(rows, np.float64)
      del gradient
      # The first time, pages and kernels were not there yet.
      program.first_seconds = self._timer(program)(1)
    except RuntimeError as e:
      if not any(text in str(e) for text in _OUT_OF_MEMORY):
        raise
      program.reason = 'it ran out of memory'

  def _timer(self, program):
    last = []

    def wait():
      for value, gradient in last:
        if isinstance(value, jax.Array):
          jax.block_until_ready((value, gradient))
        elif gradient.is_cuda:
          self._torch.cuda.synchronize()
      last.clear()

    def step():
      last.clear()  # Or two gradients would be held.
      last.append(program.step())
      if self._device.platform == 'cpu':
        # Steps in flight would share the cores, and hold a gradient each.
        wait()

    return timing.timer(step, wait)

  def _time(self, base, programs):
    count = self._s.steps_per_round or _clip(
      _TURN_SECONDS / base.first_seconds, 1, _MOST_STEPS
    )
    one_round = count * sum(x.first_seconds for x in programs.values())
    rounds = self._s.rounds or _clip(
      _SHAPE_SECONDS / one_round, _FEWEST_ROUNDS, _MOST_ROUNDS
    )
    timers = {name: self._timer(x) for name, x in programs.items()}
    orders, seconds = timing.time_in_turn(timers, rounds, count)
    for name, program in programs.items():
      program.seconds = seconds[name]
    return {
      'rounds': rounds,
      'steps_per_round': count,
      'round_orders': orders,
    }

  def _row(self, program, base, limit):
    if program is None:
      return None
    accessed = program.compiled and costs.bytes_accessed(program.compiled)
    memory = program.compiled and costs.memory(program.compiled)
    base_bytes = costs.bytes_accessed(base.compiled)
    known = accessed and base_bytes
    taken = program.seconds and timing.summary(program.seconds)
    return {
      'reason': program.reason,
      'value': program.value,
      'bytes_accessed': accessed,
      'bytes_ratio': accessed / base_bytes if known else None,
      'passes': accessed and accessed / self._bytes,
      'memory_bytes': memory,
      'temporaries_share': memory and memory['temporaries'] / self._bytes,
      'seconds': taken,
      'ratio_to_baseline': _over(program, base),
      'times_limit': taken['median'] / limit if taken and limit else None,
    }


@dataclasses.dataclass
class _Program:
  """A loss as one of `KINDS`, what it needs beyond its inputs, what it gave."""

  compiled: Any = None
  step: Callable[[], Any] | None = None
  needs: int = 0
  reason: str | None = None
  value: float | None = None
  rows: np.ndarray | None = None
  first_seconds: float | None = None
  seconds: list[float] | None = None


def _over(program, other):
  if not (other and program.seconds and other.seconds):
    return None
  return timing.ratios(program.seconds, other.seconds)


def _check(name, kind, ours, other, dtype):
  """Refuses a competitor whose value or first gradients are not ours."""
  if ours.rows is None or other.rows is None:
    return
  values = abs(other.value - ours.value) / max(abs(ours.value), 1e-6)
  rows = np.linalg.norm(other.rows - ours.rows) / np.linalg.norm(ours.rows)
  tolerance = _TOLERANCES[dtype]
  if not max(values, rows) <= tolerance:
    raise UsageError(
      f'{name}: ours and {kind} are {values:.2g} apart in value and '
      f'{rows:.2g} in gradients (relative); expected at most {tolerance:g}'
    )


def _clip(value, low, high):
  return min(max(int(value), low), high)


def compile_loss(device: jax.Device, loss: Callable, inputs: Any) -> Any:
  """Compiles the mean loss and its gradient with respect to the logits.

  The inputs are logits, labels and extras, or their shapes; the device need not
  exist.
  """

  def program(logits, labels, extras):
    def mean(z):
      return jnp.mean(loss(z, labels, extras), dtype=jnp.float32)

    return jax.value_and_grad(mean)(logits)

  sharding = SingleDeviceSharding(device)
  return (
    jax.jit(program, in_shardings=sharding, out_shardings=sharding)
    .lower(*inputs)
    .compile()
  )


def torch_loss(torch: Any, loss: Callable, inputs: Any) -> Callable[[], Any]:
  """The same of a loss in PyTorch, as it comes: not compiled."""
  logits, labels, extras = jax.tree.map(torch.from_dlpack, inputs)
  logits.requires_grad_()
  labels = labels.to(torch.int64)

  def step():
    mean = loss(torch, logits, labels, extras).mean()
    (gradient,) = torch.autograd.grad(mean, logits)
    return mean.detach(), gradient

  return step


def free_memory(device: jax.Device) -> float | None:
  """The bytes that a program may still take; None where nobody tells."""
  stats = device.memory_stats() or {}
  if 'bytes_limit' in stats:
    return _USABLE * (stats['bytes_limit'] - stats['bytes_in_use'])
  try:
    with open('/proc/meminfo') as lines:
      found = [x for x in lines if x.startswith('MemAvailable:')]
  except OSError:
    return None
  return _USABLE * 1024 * int(found[0].split()[1]) if found else None


def describe(record: Mapping[str, Any]) -> list[str]:
  """What ran on what, a table for each shape, and what it means."""
  s, results = record['settings'], record['results']
  compiled = s['target'] != 'here'
  where = 'compiled for' if compiled else 'on'
  lines = [f'Value and gradient {where} {results["device_kind"]}']
  columns = (
    ('time', 'ratio_to_baseline', report.spread('.2f')),
    ('bytes', 'bytes_ratio', '.3f'),
    ('passes', 'passes', '.2f'),
    ('temp.', 'temporaries_share', '.1%'),
    ('limit', 'times_limit', '.2f'),
    ('torch', 'ratio_to_torch.median', '.2f'),
  )[compiled : 4 if compiled else None]
  for shape in results['shapes']:
    title = f'[{shape["batch"]}, {shape["classes"]}]'
    if shape['reason']:
      lines += ['', f'{title}: not measured, {shape["reason"]}']
      continue
    rows, notes = {'optax CE': shape['baseline']}, []
    for loss in shape['losses'].values():
      rows[loss['title']] = {
        **loss['ours'],
        'ratio_to_torch': loss['ratio_to_torch'],
      }
      if loss['composed']:
        rows[f'  composed {loss["title"]}'] = loss['composed']
      for kind in KINDS:
        if loss[kind] and loss[kind]['reason']:
          notes.append(
            f'Not measured: {loss["title"]}, {kind}: {loss[kind]["reason"]}'
          )
    lines += ['', *report.table(rows, columns, title=title)]
    lines += report.wrapped(*notes)
  return [
    *lines,
    '',
    *report.wrapped(
      'Time and bytes over those of optax CE. passes, temp.: bytes accessed, '
      'as XLA counts them, and temporary memory in sizes of the logits. limit: '
      f'time over that of {LIMIT_PASSES} passes at full bandwidth.'
    ),
  ]
