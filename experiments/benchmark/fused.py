"""The suite `fused`: a last layer and its loss, with and without logits."""

import functools
import importlib.metadata
import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import SingleDeviceSharding

from experiments.benchmark import costs, timing, tpu
from maxsup_jax import losses
from maxsup_jax.errors import UsageError, one_of

ALPHA = 0.1
# Two language models, one of them with a long batch, and ImageNet-21k.
SHAPES = (
  *('4096x1024x32000', '4096x1024x128256'),
  *('16384x1024x128256', '4096x768x21843'),
)
CPU_SHAPES = ('1024x256x32000',)
# What is compared with what: the same loss, with the logits in memory.
DENSE = {
  'dense maxsup': 'dense maxsup',
  'fused maxsup': 'dense maxsup',
  'dense ce': 'dense ce',
  'fused ce': 'dense ce',
  'tokamax ce': 'dense ce',
  'torch ce': 'dense ce',
}
# How far values and gradients may be apart, relatively.
_TOLERANCE = {'float32': 1e-3, 'bfloat16': 3e-2}
# Of a TPU v5e's cores, cycles a second; no clock was read.
_CYCLES_PER_SECOND = 1.5e9


def _shape(text: str) -> tuple[int, ...]:
  match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)x([1-9]\d*)', text.strip())
  if not match:
    raise UsageError(
      f'--shapes is {text!r}; expected EXAMPLESxFEATURESxCLASSES, such as '
      '4096x1024x32000'
    )
  return tuple(map(int, match.groups()))


def measure(**given: Any) -> dict[str, Any]:
  """Compiles everything at every shape and, on this machine, times it."""
  here = given.get('target') != 'tpu'
  on_cpu = here and jax.default_backend() == 'cpu'
  s = timing.filled(
    {
      'target': 'here',
      'shapes': CPU_SHAPES if on_cpu else SHAPES,
      'rounds': 10,
    },
    given,
  )
  one_of('--target', s.target, ('here', 'tpu'))
  s.shapes = list(map(_shape, s.shapes))
  s.dtype = 'float32' if on_cpu else 'bfloat16'
  # As each chooses it on its own platform.
  s.block_size = 512 if on_cpu else 2048
  torch, no_torch = None, f'nothing runs with --target={s.target}'
  if here:
    device = jax.local_devices()[0]
    torch, no_torch = costs.find_torch(device)
    if torch and not hasattr(torch.nn, 'LinearCrossEntropyOptions'):
      torch, no_torch = None, f'PyTorch {torch.__version__} is older than 2.13'
  else:
    device = tpu.devices(tpu.TOPOLOGY)[0]
  shapes = []
  for shape in s.shapes:
    timing.say('x'.join(map(str, shape)))
    shapes.append(_measure_shape(s, device, torch, shape))
    jax.clear_caches()
  tokamax = importlib.util.find_spec('tokamax')
  return {
    'settings': {
      **vars(s),
      'alpha': ALPHA,
      'torch': torch and torch.__version__,
      'no_torch': no_torch,
      'tokamax': tokamax and importlib.metadata.version('tokamax'),
    },
    'results': {'device_kind': device.device_kind, 'shapes': shapes},
  }


def _measure_shape(
  s: Any, device: jax.Device, torch: Any, shape: tuple[int, ...]
) -> dict[str, Any]:
  """The section of a shape."""
  N, D, K = shape

  def make():
    keys = jax.random.split(jax.random.key(0), 3)
    features_ND = jax.random.normal(keys[0], (N, D), s.dtype)
    kernel_DK = jax.random.normal(keys[1], (D, K), s.dtype) / math.sqrt(D)
    return features_ND, kernel_DK, jax.random.randint(keys[2], (N,), 0, K)

  run = s.target == 'here'
  inputs = jax.jit(make)() if run else jax.eval_shape(make)
  rows, timers, found = {}, {}, {}
  for name, loss in programs(s.block_size).items():
    timing.say(f'compiling {name}')
    program = compile_loss(device, loss, inputs)
    memory = costs.memory(program)
    rows[name] = {'temporaries': memory and memory['temporaries']}
    if not run:
      rows[name].update(walked(program.as_text()))
      continue
    step = functools.partial(program, *inputs)
    found[name] = _first(step())
    timers[name] = timing.timer(functools.partial(_wait, step))
  if torch:
    step = torch_step(torch, inputs)
    rows['torch ce'] = {'temporaries': None}
    found['torch ce'] = _first(step())
    timers['torch ce'] = timing.timer(step)
  for name, values in found.items():
    _check(name, found[DENSE[name]], values, _TOLERANCE[s.dtype])
  seconds = timing.time_in_turn(timers, s.rounds, 1) if timers else {}
  for name, row in rows.items():
    times, dense = seconds.get(name), seconds.get(DENSE[name])
    row['seconds'] = times and timing.summary(times)
    row['over_dense'] = times and timing.ratios(times, dense)
  sizes = {'examples': N, 'features': D, 'classes': K}
  return {**sizes, 'logits_bytes': 4 * N * K, 'programs': rows}


def programs(block_size: int) -> dict[str, Callable[..., jax.Array]]:
  """Losses of features, a kernel and labels, one value per example."""

  def logits(features, kernel):
    return jnp.matmul(features, kernel, preferred_element_type=jnp.float32)

  def dense_maxsup(features, kernel, labels):
    return losses.maxsup_cross_entropy(logits(features, kernel), labels, ALPHA)

  def dense_ce(features, kernel, labels):
    return optax.softmax_cross_entropy_with_integer_labels(
      logits(features, kernel), labels
    )

  def fused_maxsup(features, kernel, labels):
    return losses.linear_maxsup_cross_entropy(
      features, kernel, labels, ALPHA, block_size=block_size
    )

  def fused_ce(features, kernel, labels):
    return losses.linear_cross_entropy(
      features, kernel, labels, block_size=block_size
    )

  found = {
    'dense maxsup': dense_maxsup,
    'fused maxsup': fused_maxsup,
    'dense ce': dense_ce,
    'fused ce': fused_ce,
  }
  if importlib.util.find_spec('tokamax'):
    import tokamax

    def tokamax_ce(features, kernel, labels):
      mean = tokamax.linear_softmax_cross_entropy_loss(
        features, labels, kernel, reduction='mean', implementation='xla'
      )
      return mean[None]

    found['tokamax ce'] = tokamax_ce
  return found


def compile_loss(device: jax.Device, loss: Callable, inputs: Any) -> Any:
  """Compiles the mean loss and its gradients; the device need not exist."""

  def program(features, kernel, labels):
    def mean(features, kernel):
      return jnp.mean(loss(features, kernel, labels), dtype=jnp.float32)

    return jax.value_and_grad(mean, (0, 1))(features, kernel)

  here = SingleDeviceSharding(device)
  mapped = jax.jit(program, in_shardings=here, out_shardings=here)
  return mapped.lower(*inputs).compile()


def torch_step(torch: Any, inputs: Any) -> Callable[[], Any]:
  """The same of PyTorch's own fused loss, in chunks of examples."""
  features, kernel, labels = map(torch.from_dlpack, inputs)
  kernel = kernel.T.contiguous().requires_grad_()
  features, labels = features.requires_grad_(), labels.to(torch.int64)
  options = torch.nn.LinearCrossEntropyOptions()

  def step():
    mean = torch.nn.functional.linear_cross_entropy(
      features, kernel, labels, options=options
    )
    gradients = torch.autograd.grad(mean, (features, kernel))
    return mean.detach(), (gradients[0], gradients[1].T)

  return step


def _wait(step: Callable[[], Any]) -> None:
  jax.block_until_ready(step())


def _first(values: Any) -> list[np.ndarray]:
  """The value, and some rows of the gradients."""
  value, gradients = values
  rows = [x[:64] for x in gradients]
  rows = [x if isinstance(x, jax.Array) else x.cpu().float() for x in rows]
  return [np.asarray(x, np.float64) for x in (float(value), *rows)]


def _check(name: str, ours: Any, other: Any, tolerance: float) -> None:
  """Refuses what does not compute the same."""
  for what, a, b in zip(('value', 'features', 'kernel'), ours, other):
    apart = np.linalg.norm(a - b) / np.linalg.norm(a)
    if not apart <= tolerance:
      raise UsageError(
        f'{name} and {DENSE[name]} are {apart:.2g} apart in {what}, '
        f'relatively; expected at most {tolerance:g}'
      )


# A compiled program, read


class _Line(NamedTuple):
  """An instruction of a compiled program."""

  name: str
  type: str
  opcode: str
  operands: list[str]
  text: str

  def called(self, what: str) -> str:
    found = re.search(rf'\b{what}=%([\w.\-]+)', self.text)
    return found[1] if found else ''


def walked(text: str) -> dict[str, float | None]:
  """Bytes to and from the memory of a TPU, and its compiler's cycles.

  XLA's own counts take the body of a loop once, and on-chip memory for memory.
  Here a loop counts as often as it runs, arrays in on-chip memory (`S(1)`)
  count nothing, and what is sliced counts as large as the slice.
  """
  computations = dict(_computations(text))
  entry = re.search(r'^ENTRY %([\w.\-]+)', text, re.MULTILINE)
  hbm, cycles = _walk(computations, entry[1])
  seconds = cycles / _CYCLES_PER_SECOND
  return {'hbm_bytes': hbm, 'cycles': cycles, 'estimated_seconds': seconds}


def _computations(text: str) -> Iterator[tuple[str, list[_Line]]]:
  for block in re.split(r'\n(?=%|ENTRY )', text):
    head = re.match(r'(?:ENTRY )?%([\w.\-]+) \(', block)
    if not head:
      continue
    lines = []
    for line in block.splitlines()[1:]:
      found = re.match(r'\s+(?:ROOT )?%([\w.\-]+) = (.*)', line)
      call = found and re.search(r' ([a-z][\w\-]*)\(', found[2])
      if call:
        arguments = found[2][call.end() :].partition('), ')[0]
        operands = re.findall(r'%([\w.\-]+)', arguments)
        kind = found[2][: call.start()]
        lines.append(_Line(found[1], kind, call[1], operands, line))
    yield head[1], lines


def _walk(computations: Any, name: str) -> tuple[float, float]:
  hbm = cycles = 0.0
  types = {line.name: line.type for line in computations[name]}
  for line in computations[name]:
    if line.opcode == 'while':
      inner = _walk(computations, line.called('body'))
      trips = _trips(computations[line.called('condition')])
      hbm, cycles = hbm + trips * inner[0], cycles + trips * inner[1]
      continue
    estimate = re.search(r'estimated_cycles":"(\d+)"', line.text)
    cycles += int(estimate[1]) if estimate else 0
    hbm += _moved(computations, line, types)
  return hbm, cycles


def _trips(condition: list[_Line]) -> int:
  """How often a loop of `lax.scan` runs: to the constant in its condition."""
  bounds = [
    int(found[1])
    for line in condition
    if (found := re.search(r'constant\((\d+)\)', line.text))
  ]
  if len(bounds) != 1:
    raise ValueError(f'the condition of a loop compares with {bounds}')
  return bounds[0]


_FREE = (
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
  *('copy-done', 'custom-call', 'after-all'),
)


def _moved(computations: Any, line: _Line, types: dict[str, str]) -> float:
  """The bytes that an instruction reads from memory and writes to it."""
  if line.opcode in _FREE:
    return 0
  if line.opcode == 'copy-start':  # (to, from, a flag)
    return float(_bytes(line.type))
  body = computations.get(line.called('calls'), [])
  if line.opcode != 'fusion':
    slice_size = _sliced(line, 0, types)
    if slice_size is None:
      return _bytes(line.type) + sum(_bytes(types[x]) for x in line.operands)
    there = slice_size if _bytes(types[line.operands[0]]) else 0
    if line.opcode == 'dynamic-update-slice':
      return there + _bytes(types[line.operands[1]])
    return there + _bytes(line.type)
  total = sum(
    min(_read(computations, body, i), _bytes(types[x]))
    for i, x in enumerate(line.operands)
  )
  return total + _written(computations, body, line.type)


def _sliced(line: _Line, place: int, types: dict[str, str]) -> int | None:
  """The bytes of the slice, where that is all of an operand that is touched."""
  if place == 0 and line.opcode in ('dynamic-slice', 'slice', 'gather'):
    return _size(line.type)
  if place == 0 and line.opcode == 'dynamic-update-slice':
    return _size(types[line.operands[1]])
  return None


def _read(computations: Any, body: list[_Line], index: int) -> float:
  """The bytes that a fusion reads of one of its parameters."""
  types = {line.name: line.type for line in body}
  for line in body:
    if line.opcode == 'parameter' and f'parameter({index})' in line.text:
      return _read_of(computations, body, types, line.name)
  return math.inf


def _read_of(computations, body, types, name) -> float:
  total = 0.0
  for line in body:
    for place, operand in enumerate(line.operands):
      if operand != name:
        continue
      slice_size = _sliced(line, place, types)
      if slice_size is not None:
        # What is replaced is written, not read.
        total += 0 if line.opcode == 'dynamic-update-slice' else slice_size
      elif line.opcode == 'fusion':
        inner = computations[line.called('calls')]
        total += _read(computations, inner, place)
      elif line.opcode == 'bitcast':
        total += _read_of(computations, body, types, line.name)
      else:
        return math.inf
  return total


def _written(computations: Any, body: list[_Line], kind: str) -> float:
  """The bytes that a fusion writes: of an array in place, what is replaced."""
  types = {line.name: line.type for line in body}
  by_name = {line.name: line for line in body}
  roots = [line for line in body if line.text.lstrip().startswith('ROOT')]
  if roots and roots[0].opcode == 'tuple':
    roots = [by_name[x] for x in roots[0].operands]
  total = 0.0
  for root in roots:
    while root.opcode == 'bitcast' and root.operands[0] in by_name:
      root = by_name[root.operands[0]]
    if root.opcode == 'fusion':
      inner = computations[root.called('calls')]
      total += _written(computations, inner, root.type)
    elif root.opcode == 'dynamic-update-slice' and _bytes(root.type):
      total += _size(types[root.operands[1]])
    else:
      total += _bytes(root.type)
  return min(total, _bytes(kind))


_BITS = {'pred': 8, 'bf16': 16, 'f16': 16}


def _arrays(kind: str) -> Iterator[tuple[int, bool]]:
  """Bytes of the arrays of a type, and whether they are in main memory."""
  for name, sizes, layout in re.findall(
    r'\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?', kind
  ):
    digits = re.search(r'\d+', name)
    bits = _BITS.get(name) or int(digits[0] if digits else 0)
    count = math.prod(int(x) for x in sizes.split(',') if x)
    yield count * bits // 8, not re.search(r'S\(\d\)', layout)


def _bytes(kind: str) -> int:
  """The bytes of a type in main memory."""
  return sum(size for size, main in _arrays(kind) if main)


def _size(kind: str) -> int:
  return sum(size for size, _ in _arrays(kind))
