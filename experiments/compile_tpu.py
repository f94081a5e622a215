r"""Compiles training steps for a TPU, on a machine without one.

  python -m experiments.compile_tpu
  python -m experiments.compile_tpu --topology=v6e:2x2 \
    --config=configs/imagenet_convnet.py:loss=ls --config.batch_size=1024

The step is that of `experiments.train` with the same --config, mapped over all
devices of the topology by the same code; nothing runs, and no dataset is read.
Of datasets other than ImageNet and CIFAR the number of examples, which only the
schedules see, is made up: 100 steps an epoch. Of translation the step is that
of the longest sentences, and the subwords are made up. Of segmentation no file
with the classes is read: set --config.dataset.num_classes. Without --config it
is ResNet-50 and DeiT-S. It needs `pip install libtpu` of the version that this
jax asks for (0.0.42 for jax 0.10.2; `pip install 'jax[tpu]'` finds it), and two
to four minutes a step on two cores.

FLOPs, accesses and memory are the compiler's counts for one device; "at least"
is a bound by them at the device's peaks, and no measurement.

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
  'The kind of TPU and the arrangement of its chips, on one machine: v4:2x2x1, '
  'v5p:2x2x1, or v5e or v6e with 1x1, 2x2 or 2x4.',
)
_OUT = flags.DEFINE_string(
  'out',
  'runs/compile-tpu.json',
  'Write everything to this file as JSON; empty for none.',
)

# Examples of the splits: what the schedules need to know of a dataset.
_EXAMPLES = {
  'imagenet2012': {'train': 1_281_167, 'validation': 50_000},
  'cifar10': {'train': 50_000, 'test': 10_000},
  'cifar100': {'train': 50_000, 'test': 10_000},
}


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
  }
  # All are checked before the first is compiled.
  runs = [(card, build(config, devices)) for card, config in configs]
  steps = [{'card': card, **measure(run)} for card, run in runs]
  measured = {'settings': settings, 'results': {'steps': steps}}
  report.publish(started, measured, out)
  return 0 if all(row['fits'] for row in steps) else 1


def _configs():
  """The cards and their configs, with the fields that the flags set."""
  from ml_collections import config_flags

  from maxsup_jax.tasks import resolve

  if sum(bool(re.fullmatch('--?config(=.*)?', a)) for a in sys.argv[1:]) > 1:
    raise _cli.UsageError('--config is given twice; expected one card')
  values = config_flags.get_override_values(flags.FLAGS['config'])
  values = {**_cli.RESET, **values}
  given = _cli.take_card(sys.argv[1:], '')[1]
  configs = []
  for card in [given] if given else CARDS:
    config = _cli.load_card(card)
    with config.unlocked():
      config.update_from_flattened_dict(values)
    configs.append((card, resolve(config)))
  return configs


def build(config, devices):
  """The run of a card, as the trainer builds it, without its dataset."""
  from maxsup_jax import tasks

  if config.task == 'translation':
    from maxsup_jax.data import text

    dataset = config.dataset
    # Of the widest batches, without the end that is added.
    width = dataset.buckets[-1]
    lines = [' '.join('0' * (width - 1))] * (100 * config.batch_size // width)
    pairs = text.Pairs(f'{dataset.name}, shapes only', lines, lines)
    words = map(str, range(dataset.vocabulary_size - text.UNK - 1))
    return tasks.build(
      config,
      devices=devices,
      sources=(pairs, pairs),
      encoder=text.Words(list(words)),
    )
  if config.task == 'segmentation':
    with config.unlocked():
      config.dataset.mock = 100 * config.batch_size
    return tasks.build(config, devices=devices)
  splits = (config.dataset.train_split, config.dataset.eval_split)
  sources = tuple(_shapes_only(config, split) for split in splits)
  return tasks.build(config, devices=devices, sources=sources)


def _shapes_only(config, split):
  """A source of black images: the form of a dataset, without its files."""
  import numpy as np

  from maxsup_jax import data

  dataset = config.dataset
  names = ('image_key', 'label_key', 'num_classes', 'image_size', 'channels')
  fields = {name: dataset[name] for name in names}
  form = data.open_source(dataset.name, split, mock=1, **fields)
  unknown = 100 * max(config.batch_size, form.num_classes)
  count = _EXAMPLES.get(dataset.name, {}).get(split, unknown)
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
  from experiments.benchmark import costs, timing

  config, devices = run.config, run.devices
  kind = devices.local[0].device_kind
  dtype = config.model.get('dtype', 'float32')
  timing.say(f'compiling {config.model.name}, {dtype} (minutes)')
  step, (state, batch) = run.train_step(), shapes(run)
  mapped = devices.map(step, donate=True)
  _, said = costs.compile_step(step, mapped, state, batch)
  if config.task == 'translation':
    # Sentences of a device, and their length.
    size = {'target_shape': list(batch['target'].shape[1:])}
    size['fused'] = run.task.fused
  else:
    size = {'image_shape': list(run.task.image_shape)}
  return {
    'model': config.model.to_dict(),
    **size,
    'batch_size': config.batch_size,
    'batch_size_per_device': config.batch_size // devices.count,
    'memory_capacity_bytes': costs.memory_capacity(kind),
    **said,
    'bound': costs.bound(
      said['flops_per_device']['as_written'],
      said['bytes_accessed_per_device'],
      device_kind=kind,
      dtype=dtype,
      batch_size=config.batch_size,
      unit=run.task.unit,
    ),
  }


def shapes(run):
  """The state and the batch that the step of a run takes, without arrays."""
  import jax
  import numpy as np

  state, task = run.shapes, run.task
  if run.config.task == 'translation':
    rows = task.train.rows(-1) // jax.process_count()
    ids = jax.ShapeDtypeStruct((rows, task.train.widths[-1]), np.int32)
    batch = {'source': ids, 'target': ids}
  else:
    shape, of = (run.config.batch_size // jax.process_count(),), np.uint8
    if task.train_transform.gives_floats:
      of = np.float32
    label = jax.ShapeDtypeStruct(shape, np.int32)
    if run.config.task == 'segmentation':
      label = jax.ShapeDtypeStruct(shape + task.image_shape[:2], np.uint8)
    batch = {
      'image': jax.ShapeDtypeStruct(shape + task.image_shape, of),
      'label': label,
      'mask': jax.ShapeDtypeStruct(shape, bool),
    }
  return (
    run.devices.shapes(state, split=False),
    run.devices.shapes(batch, split=True),
  )


if __name__ == '__main__':
  _cli.run(main, config=CARDS[0])
