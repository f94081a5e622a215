"""The training step of a run card, compiled for devices that are not there."""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import _benchmark_costs as costs
from maxsup_jax import data, models
from maxsup_jax.training import setup
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.run import Run

# Examples of the splits: what the schedules need to know of a dataset.
_EXAMPLES = {
  ('imagenet2012', 'train'): 1_281_167,
  ('imagenet2012', 'validation'): 50_000,
  ('cifar10', 'train'): 50_000,
  ('cifar10', 'test'): 10_000,
  ('cifar100', 'train'): 50_000,
  ('cifar100', 'test'): 10_000,
}
# Of a dataset that is not known: so many steps an epoch.
_STEPS_PER_EPOCH = 100

COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)


@dataclasses.dataclass(frozen=True)
class Shapes:
  """A source of black images: the form of a dataset, without its files."""

  name: str
  count: int
  num_classes: int
  image_shape: tuple[int, int, int] | None
  channels: int
  label_names: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> data.Example:
    shape = self.image_shape or (256, 256, self.channels)
    label = range(self.count)[index] % self.num_classes
    return {'image': np.zeros(shape, np.uint8), 'label': label}

  def labels(self) -> np.ndarray:
    return np.arange(self.count, dtype=np.int32) % self.num_classes


def build(config: ConfigDict, devices: Devices) -> Run:
  """The run of a card, as the trainer builds it, without its dataset.

  Args:
    config: complete, see `config.resolve`.
    devices: to compile for.

  Returns:
    The run; its images are black.

  Raises:
    UsageError: for what the trainer would refuse, but for the dataset's files.
  """
  splits = (config.dataset.train_split, config.dataset.eval_split)
  sources = tuple(_shapes(config, split) for split in splits)
  return setup.build(config, devices=devices, sources=sources)


def _shapes(config: ConfigDict, split: str) -> Shapes:
  dataset = config.dataset
  form = data.open_source(
    dataset.name,
    split,
    image_key=dataset.image_key,
    label_key=dataset.label_key,
    num_classes=dataset.num_classes,
    image_size=dataset.image_size,
    channels=dataset.channels,
    mock=1,
  )
  unknown = _STEPS_PER_EPOCH * max(config.batch_size, form.num_classes)
  return Shapes(
    name=f'{dataset.name}/{split}, shapes only',
    count=_EXAMPLES.get((dataset.name, split), unknown),
    num_classes=form.num_classes,
    image_shape=form.image_shape,
    channels=form[0]['image'].shape[-1],
  )


def measure(run: Run) -> dict[str, Any]:
  """Compiles the training step of a run, and reads what the compiler says.

  Args:
    run: see `build`.

  Returns:
    A row of the record, JSON's types alone. Where the step needs more memory
    than there is, `fits` is False, and of the program no more is known than
    what it needs.
  """
  devices = run.devices
  kind = devices.local[0].device_kind
  dtype = run.config.model.get('dtype', 'float32')
  state, batch = shapes(run)
  step = run.train_step()
  start = time.perf_counter()
  lowered = devices.map(step, donate=True).lower(state, batch)
  middle = time.perf_counter()
  compiled, lacks = compile_or_lack(lowered.compile)
  end = time.perf_counter()
  flops = {
    'as_written': costs.flops_as_written(step, state, batch),
    'as_compiled': compiled and costs.flops(compiled),
  }
  accessed = compiled and costs.bytes_accessed(compiled)
  return {
    'model': run.config.model.to_dict(),
    'objective': run.config.objective.to_dict(),
    'optimizer': run.config.optimizer.name,
    'batch_norm': run.config.batch_norm,
    'mixing': run.mixing.active,
    'ema': run.config.ema_decay is not None,
    'parameters': models.count_parameters(
      jax.eval_shape(run.init_state).params
    ),
    'image_shape': list(run.image_shape),
    'num_classes': run.train_source.num_classes,
    'examples': len(run.train_source),
    'batch_size': run.config.batch_size,
    'batch_size_per_device': run.config.batch_size // devices.count,
    'lower_seconds': middle - start,
    'compile_seconds': end - middle,
    'fits': compiled is not None,
    'lacks': lacks,
    'memory_capacity_bytes': costs.memory_capacity(kind),
    'memory_bytes_per_device': compiled and costs.memory(compiled),
    'flops_per_device': flops,
    'bytes_accessed_per_device': accessed,
    'collectives': compiled and collectives(compiled.as_text()),
    'bound': costs.bound(
      flops['as_written'],
      accessed,
      peak=costs.peak_flops(kind, dtype),
      bandwidth=costs.memory_bandwidth(kind),
      batch_size=run.config.batch_size,
    ),
  }


def shapes(run: Run) -> tuple[Any, Any]:
  """The state and the batch that the step of a run takes, without arrays."""
  size = run.config.batch_size // jax.process_count()
  batch = {
    'image': ((size, *run.image_shape), _image_dtype(run)),
    'label': ((size,), np.int32),
    'mask': ((size,), bool),
  }
  batch = {
    name: jax.ShapeDtypeStruct(shape, dtype)
    for name, (shape, dtype) in batch.items()
  }
  state = jax.eval_shape(run.init_state)
  return (
    run.devices.shapes(state, split=False),
    run.devices.shapes(batch, split=True),
  )


def _image_dtype(run: Run) -> type[np.generic]:
  return np.float32 if run.train_transform.gives_floats else np.uint8


def compile_or_lack(
  compile: Callable[[], Any],
) -> tuple[Any, dict[str, Any] | None]:
  """Compiles, or says how much memory was missing.

  Returns:
    The program and None; or None and what the compiler said: `message`, and
    where it tells them the bytes `needed` and `available`.
  """
  try:
    return compile(), None
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if 'RESOURCE_EXHAUSTED' not in message:
      raise
  return None, parse_lack(message)


def parse_lack(message: str) -> dict[str, Any]:
  """Reads how much memory the compiler would have needed.

  Examples:
    >>> lack = parse_lack(
    ...   'RESOURCE_EXHAUSTED: the total memory required '
    ...   'for HLO temporaries (18.26G) exceeds available HBM (15.75G).'
    ... )
    >>> lack['needed'] / 2**30, lack['available'] / 2**30
    (18.26, 15.75)
  """
  size = r'([\d.]+)([KMGT]?)'
  found = re.search(
    rf'\({size}\) exceeds available HBM \({size}\)', message
  ) or re.search(rf'Used {size} of {size} hbm', message)
  needed = available = None
  if found:
    scale = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
    needed = round(float(found[1]) * scale[found[2]])
    available = round(float(found[3]) * scale[found[4]])
  return {
    'needed': needed,
    'available': available,
    'message': ' '.join(message.split())[:500],
  }


def collectives(text: str) -> dict[str, dict[str, int]]:
  """Counts what a program exchanges between devices.

  Args:
    text: of a compiled program.

  Returns:
    For each of `COLLECTIVES` that occurs, how often, and the bytes of all that
    comes out, on one device.

  Examples:
    >>> collectives('%a = (f32[2,3]{1,0}, bf16[4]) all-reduce(%b, %c), to=%d')
    {'all-reduce': {'count': 1, 'bytes': 32}}
  """
  found: dict[str, dict[str, int]] = {}
  names = '|'.join(COLLECTIVES)
  for match in re.finditer(
    rf'^.*?%?\S+ = (.*?) ({names})(-start)?\(', text, re.MULTILINE
  ):
    entry = found.setdefault(match[2], {'count': 0, 'bytes': 0})
    entry['count'] += 1
    entry['bytes'] += _bytes(match[1])
  return found


def _bytes(shapes_text: str) -> int:
  """The size of a tuple of arrays, as a program writes its types."""
  total = 0
  for kind, sides in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', shapes_text):
    bits = re.search(r'\d+$', kind)
    size = int(bits[0]) // 8 if bits else 1
    total += size * int(np.prod([int(n) for n in sides.split(',') if n]))
  return total
