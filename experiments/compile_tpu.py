r"""Compiles training steps for a TPU, on a machine without one.

  python -m experiments.compile_tpu
  python -m experiments.compile_tpu --topology=v6e:2x2 \
    --config=configs/imagenet_convnet.py:loss=ls --config.batch_size=1024
  python -m experiments.compile_tpu --dtypes=bfloat16,float32 --find_batch_size

The step is that of `experiments.train` with the same --config, mapped over all
devices of the topology by the same code; nothing runs, and no dataset is read.
Of datasets other than ImageNet and CIFAR the number of examples, which only the
schedules see, is made up: 100 steps an epoch.
--config can be given several times; without it, it is ResNet-50 and DeiT-S. It
needs `pip install libtpu` of the version that this jax asks for (0.0.42 for jax
0.10.2; `pip install 'jax[tpu]'` finds it), and two to four minutes a step on
two cores.

FLOPs, accesses and memory are the compiler's counts for one device; "at least"
is a bound by them at the device's peaks, and no measurement; outputs that take
the place of the state that is given away are counted once.

Exit codes: 0 every step fits, 1 one does not, 2 the input is wrong.
"""

import re
import sys

from absl import flags

from experiments import _cli
from maxsup_jax import files
from maxsup_jax.errors import one_of

CARDS = ('configs/imagenet_convnet.py', 'configs/imagenet_deit.py')

_TOPOLOGY = flags.DEFINE_string(
  'topology',
  'v5e:2x2',
  'TPU and arrangement of its chips, on one machine: v4:2x2x1, v5p:2x2x1, '
  'or v5e or v6e with 1x1, 2x2 or 2x4.',
)
_DTYPES = flags.DEFINE_list(
  'dtypes',
  None,
  'Dtypes to compile each card in, such as bfloat16,float32; by default its '
  'own.',
)
_FIND_BATCH_SIZE = flags.DEFINE_bool(
  'find_batch_size',
  False,
  'If a step does not fit, halve its batch until it does.',
)
_OUT = flags.DEFINE_string(
  'out',
  'runs/compile-tpu.json',
  'Write everything to this file as JSON; empty for none.',
)

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

_COLLECTIVES = (
  'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute'
)
_GIB = 2**30


def main():
  from experiments.benchmark import report, tpu

  out = files.check_writable(_OUT.value) if _OUT.value else None
  one_of('--topology', _TOPOLOGY.value, tpu.TOPOLOGIES)
  tpu.prepare('experiments.compile_tpu')
  configs, started = _configs(), report.started('compile_tpu')
  import jax

  from maxsup_jax.training.parallel import Devices

  # A compilation that is read from a cache takes no time worth reporting.
  jax.config.update('jax_enable_compilation_cache', False)
  devices = Devices(tpu.devices(_TOPOLOGY.value))
  settings = {
    'topology': _TOPOLOGY.value,
    'device_kind': devices.local[0].device_kind,
    'device_count': devices.count,
    'find_batch_size': _FIND_BATCH_SIZE.value,
  }
  steps = compile_all(configs, devices, _FIND_BATCH_SIZE.value)
  measured = {'settings': settings, 'results': {'steps': steps}}
  report.publish(started, measured, describe, out)
  return 0 if all(row['fits'] for row in steps) else 1


def compile_all(configs, devices, find_batch_size):
  """A row for each step; all are checked before the first is compiled."""
  rows = []
  for card, run in [(card, build(c, devices)) for card, c in configs]:
    row = {'card': card, **measure(run), 'largest_batch_size': None}
    rows.append(row)
    size, fits = run.config.batch_size, row['fits']
    while find_batch_size and not fits and size % (2 * devices.count) == 0:
      size //= 2
      config = run.config.copy_and_resolve_references()
      config.batch_size = size
      fits = measure(build(config, devices))['fits']
      row['largest_batch_size'] = size if fits else None
  return rows


def _configs():
  """The cards and their configs, with the fields that the flags set."""
  from ml_collections import config_flags

  from maxsup_jax.tasks import resolve

  values = config_flags.get_override_values(flags.FLAGS['config'])
  configs = []
  for card in given_cards(sys.argv) or CARDS:
    for dtype in _DTYPES.value or [None]:
      config = _cli.load_card(card)
      with config.unlocked():
        config.update_from_flattened_dict(values)
        if dtype is not None:
          config.model.dtype = dtype
      configs.append((card, resolve(config)))
  return configs


def given_cards(argv):
  """Every `--config=CARD` or `--config CARD` of the arguments, in order."""
  cards, arguments = [], iter(argv[1:])
  for argument in arguments:
    match = re.fullmatch('--?config(=(.*))?', argument)
    if match:
      cards.append(match[2] if match[1] else next(arguments, ''))
  return cards


def build(config, devices):
  """The run of a card, as the trainer builds it, without its dataset."""
  from maxsup_jax import tasks

  splits = (config.dataset.train_split, config.dataset.eval_split)
  sources = tuple(_shapes_only(config, split) for split in splits)
  return tasks.build(config, devices=devices, sources=sources)


def _shapes_only(config, split):
  """A source of black images: the form of a dataset, without its files."""
  import numpy as np

  from maxsup_jax import data

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
  count = _EXAMPLES.get((dataset.name, split), unknown)
  shape = form.image_shape or (256, 256, form[0]['image'].shape[-1])
  source = data.ArraySource(
    np.broadcast_to(np.uint8(0), (count, *shape)),
    np.arange(count, dtype=np.int32) % form.num_classes,
    form.num_classes,
    name=f'{dataset.name}/{split}, shapes only',
  )
  source.image_shape = form.image_shape  # None where sizes differ
  return source


def measure(run):
  """Compiles the training step of a run; gives a row of the record."""
  import jax

  from experiments.benchmark import costs
  from maxsup_jax import models

  config, devices = run.config, run.devices
  kind = devices.local[0].device_kind
  dtype = config.model.get('dtype', 'float32')
  print(
    f'compiling {config.model.name}, {dtype}, batch {config.batch_size} '
    '(minutes)',
    file=sys.stderr,
    flush=True,
  )
  step, (state, batch) = run.train_step(), shapes(run)
  program, said = costs.compile_step(
    step, devices.map(step, donate=True), state, batch
  )
  return {
    'model': config.model.to_dict(),
    'objective': config.objective.to_dict(),
    'optimizer': config.optimizer.name,
    'batch_norm': config.batch_norm,
    'mixing': run.task.mixing.active,
    'ema': config.ema_decay is not None,
    'parameters': models.count_parameters(
      jax.eval_shape(run.init_state).params
    ),
    'image_shape': list(run.task.image_shape),
    'num_classes': run.task.train_source.num_classes,
    'examples': len(run.task.train_source),
    'batch_size': config.batch_size,
    'batch_size_per_device': config.batch_size // devices.count,
    'memory_capacity_bytes': costs.memory_capacity(kind),
    **said,
    'collectives': program and collectives(program.as_text()),
    'bound': costs.bound(
      said['flops_per_device']['as_written'],
      said['bytes_accessed_per_device'],
      device_kind=kind,
      dtype=dtype,
      batch_size=config.batch_size,
    ),
  }


def shapes(run):
  """The state and the batch that the step of a run takes, without arrays."""
  import jax
  import numpy as np

  size = run.config.batch_size // jax.process_count()
  floats = run.task.train_transform.gives_floats
  shaped = jax.ShapeDtypeStruct
  batch = {
    'image': shaped(
      (size, *run.task.image_shape), np.float32 if floats else np.uint8
    ),
    'label': shaped((size,), np.int32),
    'mask': shaped((size,), bool),
  }
  state = jax.eval_shape(run.init_state)
  return (
    run.devices.shapes(state, split=False),
    run.devices.shapes(batch, split=True),
  )


def collectives(text):
  """Counts what a compiled program exchanges between devices.

  Returns:
    For each kind that occurs, how often, and the bytes of all that comes out,
    on one device.
  """
  found = {}
  for match in re.finditer(
    rf'^.*?%?\S+ = (.*?) ({_COLLECTIVES})(-start)?\(', text, re.MULTILINE
  ):
    entry = found.setdefault(match[2], {'count': 0, 'bytes': 0})
    entry['count'] += 1
    for kind, sides in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', match[1]):
      size = int((re.search(r'\d+$', kind) or ['8'])[0]) // 8
      for side in filter(None, sides.split(',')):
        size *= int(side)
      entry['bytes'] += size
  return found


def describe(record):
  """What was compiled for what, a table, and what does not fit."""
  from experiments.benchmark import report
  from experiments.benchmark.step import PROGRAM_COLUMNS

  steps = record['results']['steps']
  columns = (
    ('dtype', 'model.dtype', ''),
    ('objective', 'objective.name', ''),
    ('batch', 'batch_size', ''),
    ('  of a device', 'batch_size_per_device', ''),
    ('fits', 'fits', lambda fits: 'yes' if fits else 'no'),
    *PROGRAM_COLUMNS,
    ('memory of a device', 'memory_capacity_bytes', 'B'),
    ('at least, s', 'bound.step_seconds', '.4f'),
    ('  FLOPs at the peak', 'bound.compute_seconds', '.4f'),
    ('  accesses at the bandwidth', 'bound.memory_seconds', '.4f'),
    ('  images/s at most', 'bound.images_per_second', ',.0f'),
    ('exchanges', 'collectives', lambda x: str(_total(x, 'count'))),
    (
      '  bytes',
      'collectives',
      lambda x: report.with_unit(_total(x, 'bytes'), 'B'),
    ),
  )
  lines = ['Training steps, compiled and not run:']
  for start in range(0, len(steps), 3):
    rows = {
      f'{i + 1}: {row["model"]["name"]}': row
      for i, row in enumerate(steps[start : start + 3], start)
    }
    lines += ['', *report.table(rows, columns, title='step', across=True)]
  return lines + report.wrapped(*(lack(x) for x in steps if not x['fits']))


def _total(exchanged, what):
  return sum(x[what] for x in exchanged.values())


def lack(row):
  """What a step that does not fit would need, in one line."""
  name = f'{row["model"]["name"]} in {row["model"].get("dtype", "float32")}'
  lacks, largest = row['lacks'], row['largest_batch_size']
  words = lacks['message']
  if lacks['needed'] and lacks['available']:
    words = (
      f'needs {lacks["needed"] / _GIB:.2f} of {lacks["available"] / _GIB:.2f} '
      'GiB of a device'
    )
  advice = '' if largest is None else f'; a batch of {largest} does'
  return f'{name}, batch {row["batch_size"]}, does not fit: {words}{advice}'


if __name__ == '__main__':
  _cli.run(main, config=CARDS[0])
