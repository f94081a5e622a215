"""The suite `losses`: value and gradient of each loss, side by side."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments import _benchmark_costs as costs
from experiments import _benchmark_loss_programs as programs
from experiments import _benchmark_loss_results as loss_results
from experiments import _benchmark_timing as timing
from experiments import _benchmark_tpu
from experiments._benchmark_losses import LOSSES, Entry, baseline
from maxsup_jax.errors import UsageError

TARGETS = ('here', 'tpu')
DTYPES = ('float32', 'bfloat16')
SHAPES = ('4096x1000', '1024x21843', '8192x32000')

_SEED = 0

# A turn of the baseline takes about as long, so that calls and clocks do not
# decide.
_TURN_SECONDS = 0.05
_MOST_STEPS = 200

# The rounds of a shape take about a minute, if fewer than these are not more.
_SHAPE_SECONDS = 60
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 20


@dataclasses.dataclass(frozen=True)
class Settings:
  """What is measured.

  Attributes:
    target: `here`, or `tpu` to compile for a TPU only.
    shapes: pairs of B and K.
    losses: keys of `_benchmark_losses.LOSSES`.
    dtype: of the logits.
    rounds: how often the programs take turns; None for as many as fit.
    steps_per_round: of each program; None for as many as take some time.
  """

  target: str
  shapes: tuple[tuple[int, int], ...]
  losses: tuple[str, ...]
  dtype: str
  rounds: int | None
  steps_per_round: int | None


def choose_settings(
  *,
  target: str,
  shapes: Sequence[str] | None,
  losses: Sequence[str] | None,
  dtype: str | None,
  rounds: int | None,
  steps_per_round: int | None,
) -> Settings:
  """Reads the flags; None for the default.

  Raises:
    UsageError: if a value is not known or malformed.
  """
  dtype = dtype or DTYPES[0]
  losses = tuple(losses or LOSSES)
  for flag, values, known in (
    ('target', [target], TARGETS),
    ('dtype', [dtype], DTYPES),
    ('losses', losses, LOSSES),
  ):
    for value in values:
      if value not in known:
        raise UsageError(f'--{flag}: unknown {value!r}; known: ' + _list(known))
  return Settings(
    target,
    tuple(map(_shape, shapes or SHAPES)),
    # Twice the same name is one row.
    tuple(dict.fromkeys(losses)),
    dtype,
    rounds,
    steps_per_round,
  )


def measure(settings: Settings) -> dict[str, Any]:
  """Compiles the losses at every shape and, on this machine, times them.

  Args:
    settings: what is measured.

  Returns:
    The sections `settings` and `results` of the record.
  """
  runs = settings.target == 'here'
  device = jax.local_devices()[0] if runs else _benchmark_tpu.device()
  torch, no_torch = None, f'nothing runs with --target={settings.target}'
  if runs:
    torch, no_torch = programs.find_torch(device)
  shapes = []
  for batch, classes in settings.shapes:
    _say(f'[{batch}, {classes}]')
    shapes.append(_Shape(settings, device, torch, batch, classes).measure())
    # JAX keeps what it traced and compiled, and with it the memory.
    jax.clear_caches()
  return {
    'settings': {
      **dataclasses.asdict(settings),
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
  """The losses at one shape.

  Programs go by the name of the loss and by whose they are: `ours`, `composed`
  or `torch`. What does not run has an entry in `_reasons`.
  """

  def __init__(self, settings, device, torch, batch, classes):
    self._settings = settings
    self._device = device
    self._torch = torch
    self._batch, self._classes = batch, classes
    self._compiled, self._runners, self._reasons = {}, {}, {}
    self._values, self._first_seconds = {}, {}

  def measure(self) -> dict[str, Any]:
    """The section of this shape."""
    shape = self._batch, self._classes
    itemsize = jnp.dtype(self._settings.dtype).itemsize
    section = {
      'batch': self._batch,
      'classes': self._classes,
      'logits_bytes': self._batch * self._classes * itemsize,
    }
    runs = self._settings.target == 'here'
    # Logits and gradient at least.
    needed = 2 * section['logits_bytes']
    lacks = programs.lacks_memory(self._device, needed) if runs else None
    if lacks:
      return {**section, 'reason': lacks}
    make = _make_inputs(*shape, self._settings.dtype)
    inputs = jax.jit(make)() if runs else jax.eval_shape(make)
    self._add('baseline', Entry('', baseline), inputs)
    if ('baseline', 'ours') in self._reasons:
      return {**section, 'reason': self._reasons['baseline', 'ours']}
    for name in self._settings.losses:
      self._add(name, LOSSES[name], inputs)
    timed = self._time() if runs else {}
    return loss_results.section(
      {**section, 'reason': None, **timed},
      self._device,
      compiled=self._compiled,
      values=self._values,
      reasons=self._reasons,
      entries={name: LOSSES[name] for name in self._settings.losses},
    )

  def _add(self, name, entry, inputs):
    """Compiles a row of the table, and prepares it to run."""
    if entry.largest_classes and self._classes > entry.largest_classes:
      self._reasons[name, 'ours'] = (
        f'measured up to K = {entry.largest_classes}'
      )
      return
    runs = self._settings.target == 'here'
    extras = None
    if entry.extras:
      key = jax.random.key(_SEED)
      make = jax.jit(entry.extras, static_argnums=(1, 2))
      arguments = key, self._batch, self._classes
      extras = jax.eval_shape(lambda: make(*arguments))
      size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(extras))
      lacks = programs.lacks_memory(self._device, size) if runs else None
      if lacks:
        self._reasons[name, 'ours'] = lacks
        return
      extras = make(*arguments) if runs else extras
    inputs = *inputs, extras
    for kind, loss in (('ours', entry.loss), ('composed', entry.composition)):
      if loss is not None:
        _say(f'compiling {name}, {kind}')
        compiled = programs.compile_loss(self._device, loss, inputs)
        self._compiled[name, kind] = compiled
        if runs:
          runner = programs.JaxProgram(compiled, inputs, self._device)
          self._try(name, kind, runner)
    if self._torch and entry.torch:
      runner = programs.TorchProgram(self._torch, entry.torch, inputs)
      self._try(name, 'torch', runner)

  def _try(self, name, kind, runner):
    """Runs a program twice, or notes why it cannot be run."""
    lacks = programs.lacks_memory(self._device, runner.needs())
    if lacks:
      self._reasons[name, kind] = lacks
      return
    try:
      self._values[name, kind] = runner.value()
      # The first time, pages and kernels were not there yet.
      self._first_seconds[name, kind] = runner.seconds_per_step(1)
    except RuntimeError as e:
      self._reasons[name, kind] = programs.out_of_memory(e)
    else:
      self._runners[name, kind] = runner

  def _time(self):
    settings, first = self._settings, self._first_seconds
    count = settings.steps_per_round or _clip(
      _TURN_SECONDS / first['baseline', 'ours'], 1, _MOST_STEPS
    )
    rounds = settings.rounds or _clip(
      _SHAPE_SECONDS / (count * sum(first.values())),
      _FEWEST_ROUNDS,
      _MOST_ROUNDS,
    )
    orders, seconds = timing.time_in_turn(
      {name: x.seconds_per_step for name, x in self._runners.items()},
      rounds,
      count,
      _say,
    )
    return {
      'rounds': rounds,
      'steps_per_round': count,
      'round_orders': [[' '.join(x) for x in order] for order in orders],
      'seconds': seconds,
    }


def _make_inputs(batch, classes, dtype):
  def make():
    keys = jax.random.split(jax.random.key(_SEED))
    logits_BK = jax.random.normal(keys[0], (batch, classes), dtype)
    return logits_BK, jax.random.randint(keys[1], (batch,), 0, classes)

  return make


def _shape(text):
  match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text.strip())
  if not match:
    raise UsageError(
      f'--shapes: {text!r} is no BATCHxCLASSES; expected such as '
      '--shapes=4096x1000,1024x21843'
    )
  return int(match[1]), int(match[2])


def _clip(value, low, high):
  return min(max(int(value), low), high)


def _list(names):
  return ', '.join(names)


def _say(text):
  print(text, file=sys.stderr, flush=True)
