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

  fits          whether the compiler finds room for the step. If one does not
                fit, the exit code is 1.
  memory        of a device, by purpose; outputs that take the place of the
                state that is given away are counted once.
  FLOPs         of a device: as written, before anything is optimised, and as
                compiled.
  accessed      what the compiled step reads and writes in the memory of a
                device, as the compiler counts it.
  at least      the step takes: its FLOPs as written at the device's peak, or
                what it accesses at the bandwidth of its memory. That is a bound
                by the compiler's counts, and no measurement.
  collectives   what devices exchange: how often, and how many bytes.

Exit codes: 0 every step fits, 1 one does not, 2 the input is wrong.
"""

import json
import re
import sys

from absl import flags

from experiments import _cli

CARDS = ('configs/imagenet_convnet.py', 'configs/imagenet_deit.py')

_TOPOLOGY = flags.DEFINE_string(
  'topology',
  'v5e:2x2',
  'The kind of TPU and the arrangement of its chips, on one machine: v4:2x2x1, '
  'v5p:2x2x1, or v5e or v6e with 1x1, 2x2 or 2x4.',
)
_DTYPES = flags.DEFINE_list(
  'dtypes',
  None,
  'Compiles each card once in each, such as bfloat16,float32; its own.',
)
_FIND_BATCH_SIZE = flags.DEFINE_bool(
  'find_batch_size',
  False,
  'Where a step does not fit, halve its batch until it does.',
)
_OUT = flags.DEFINE_string(
  'out',
  'runs/compile-tpu.json',
  'Write everything to this file as JSON; empty for none.',
)


def main():
  from experiments import _benchmark_tpu

  out = _cli.checked_out(_OUT.value)
  _benchmark_tpu.check_topology(_TOPOLOGY.value)
  _benchmark_tpu.prepare('experiments.compile_tpu')
  configs = _configs()
  import jax

  from experiments import _benchmark_machine, _compile_tpu_report
  from maxsup_jax.training.parallel import Devices

  # A compilation that is read from a cache takes no time worth reporting.
  jax.config.update('jax_enable_compilation_cache', False)
  started = _benchmark_machine.record_start()
  devices = Devices(_benchmark_tpu.devices(_TOPOLOGY.value))
  record = {
    'schema': 1,
    'suite': 'compile_tpu',
    **started,
    'settings': {
      'topology': _TOPOLOGY.value,
      'device_kind': devices.local[0].device_kind,
      'device_count': devices.count,
      'find_batch_size': _FIND_BATCH_SIZE.value,
    },
    'results': {'steps': compile_all(configs, devices)},
  }
  print(_compile_tpu_report.describe(record))
  if out:
    out.write_text(json.dumps(record, indent=2) + '\n')
    print(f'\nwritten to {out}')
  return 0 if all(row['fits'] for row in record['results']['steps']) else 1


def compile_all(configs, devices):
  """A row for each step; all are checked before the first is compiled."""
  from experiments import _compile_tpu

  runs = [(card, _compile_tpu.build(c, devices)) for card, c in configs]
  rows = []
  for card, run in runs:
    row = _compiled(card, run)
    rows.append({'card': card, **row, 'largest_batch_size': None})
    if _FIND_BATCH_SIZE.value and not row['fits']:
      rows[-1]['largest_batch_size'] = _largest_batch_size(card, run)
  return rows


def _compiled(card, run):
  from experiments import _compile_tpu

  model, batch_size = run.config.model, run.config.batch_size
  print(
    f'compiling {card}: {model.name}, {model.get("dtype", "float32")}, batch '
    f'{batch_size} (minutes)',
    file=sys.stderr,
    flush=True,
  )
  return _compile_tpu.measure(run)


def _largest_batch_size(card, run):
  """The batch, halved until it fits; None if no batch does."""
  from experiments import _compile_tpu

  config, devices = run.config, run.devices
  size = config.batch_size
  while size % (2 * devices.count) == 0:
    size //= 2
    config = config.copy_and_resolve_references()
    config.batch_size = size
    smaller = _compile_tpu.build(config, devices)
    if _compiled(card, smaller)['fits']:
      return size
  return None


def _configs():
  """The cards and their configs, with the fields that the flags set."""
  from ml_collections import config_flags

  from maxsup_jax.training.config import resolve

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


if __name__ == '__main__':
  _cli.run(main, config=CARDS[0])
