"""Measures how fast the training step is, and what each objective costs.

  python -m experiments.benchmark
  python -m experiments.benchmark --suite=losses
  python -m experiments.benchmark --suite=losses --target=tpu
  python -m experiments.benchmark --suite=diagnostics
  python -m experiments.benchmark --suite=pipeline

The suite `step`, the default:

Cross-entropy (CE), label smoothing (LS) and MaxSup are timed side by side in
one run: every round takes some steps of each, in an order that changes from
round to round, so that a drift of the machine hits all alike. What is timed is
the step that `experiments.train` runs, on all devices, with synthetic images
that lie on the devices already. Neither datasets nor grain nor ml_collections
are needed.

  step time     median of the rounds, and quartiles. A turn of some steps is
                timed until everything that they compute is there.
  ratio to CE   of the same round; median of the rounds, and quartiles.
  images/s      batch size over median step time, all devices together.
  tracing and lowering, compiling
                of each step, in the order of the columns, without JAX's
                persistent cache. What is traced or tuned for the first, the
                others may reuse.
  FLOPs as written
                XLA's count of one device's part of the step, before it is
                optimised. Multiplications with padding do not count, so it is
                below the textbook's number.
  FLOPs as compiled
                the same of the program that runs. On GPUs it lacks what XLA
                hands to cuBLAS and cuDNN (github.com/jax-ml/jax/issues/22249),
                so what is achieved is given as written.
  memory        what the compiled step needs on each device.
  pipeline      images/s of `maxsup_jax.data.train_batches` alone: images in
                memory, padding, crops and flips.

The suite `losses`: value and gradient, with respect to the logits, of each loss
as a function of logits and labels, against the cross-entropy of optax, against
the loss as one would write it with jax and optax, and against PyTorch where it
is installed. All take turns as above.

  bytes, passes what XLA says that the compiled program reads and writes, over
                that of the baseline and over the size of the logits.
  temp.         temporary memory over the size of the logits.
  limit         time over that of reading the logits twice and writing the
                gradient once, at the bandwidth of the device's memory.

With --target=tpu the losses are compiled for a TPU v5e, on a machine without
one, and nothing is timed; it needs `pip install libtpu`.

The suite `diagnostics`: the calibration and the selective-classification table
of a report, the bootstrap, and the accumulators of neural collapse beside the
matrix products that they contain. The first three run on the host.

The suite `start`: seconds from the command of a run to its first step, without
and with the programs that an earlier start has compiled and kept, and those
that `--help` takes.

The suite `pipeline`: images/s from JPEG files to batches, on one core and on
all, beside PIL and, where they are installed, torchvision and tf.data; and what
each stage takes. It needs no device.

The suite `train`: the step of ResNet-50 and DeiT-S beside the same step in
PyTorch, with the same weights, on one device. They must compute the same losses
before they are timed. PyTorch runs as it comes, with channels_last and through
torch.compile; the fastest of these is what the ratio is about. With bfloat16 it
uses autocast.

Without flags it measures a small ResNet-18 on CPU, in a minute or two, and a
ResNet-50 on 224x224 images elsewhere. Numbers of different machines compare
only with the same flags.
"""

import importlib
import json
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import flags

from experiments import _cli, _processes

_SUITE = flags.DEFINE_string(
  'suite',
  'step',
  'What to measure: step, train, losses, diagnostics, pipeline, start.',
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Write everything, each round too, to this file as JSON; empty for none '
  '(default: runs/benchmark-SUITE.json).',
)
flags.DEFINE_string(
  'model',
  None,
  'A name of maxsup_jax.models. step: resnet18 on CPU, else resnet50. train: '
  'resnet50 and vit_small.',
)
flags.DEFINE_integer(
  'image_size',
  None,
  'Side of the images. step: 32 on CPU, else 224; below 64 a ResNet has the '
  'stem for CIFAR. train: 224.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'batch_size',
  None,
  'step: images in a step, over all devices; 16 a device on CPU, else 256. '
  'train: 8 on CPU, else 256. diagnostics: rows in an update of neural '
  'collapse; 4096.',
  lower_bound=1,
)
flags.DEFINE_integer(
  'num_classes',
  None,
  'step: 100 on CPU, else 1000. train: 1000.',
  lower_bound=2,
)
flags.DEFINE_string(
  'dtype',
  None,
  'step, train: of the computation; float32 on CPU, else bfloat16. losses: of '
  'the logits; float32.',
)
flags.DEFINE_integer(
  'rounds',
  None,
  'How often the objectives take turns. step: 12. losses: what takes a minute, '
  'but 5 to 20. diagnostics, start: 5.',
  lower_bound=2,
)
flags.DEFINE_integer(
  'steps_per_round',
  None,
  'Steps of each objective in a round. step: 1 on CPU, else 20. losses: what '
  'takes some time.',
  lower_bound=1,
)
flags.DEFINE_list(
  'shapes',
  None,
  'Examples x classes. losses: 4096x1000,1024x21843,8192x32000. diagnostics: '
  '50000x1000.',
)
flags.DEFINE_list('losses', None, 'losses: some of them; all.')
flags.DEFINE_string(
  'target', 'here', 'losses: here, or tpu to compile for a TPU without one.'
)
flags.DEFINE_string('card', None, 'start: the run card; configs/digits.py.')
flags.DEFINE_integer(
  'features', None, 'diagnostics: of an example; 2048.', lower_bound=1
)
flags.DEFINE_integer(
  'resamples', None, 'diagnostics: of the bootstrap; 1000.', lower_bound=1
)
flags.DEFINE_list(
  'variants',
  None,
  'train: how PyTorch runs: plain, channels_last, compiled; all of them. On '
  'GPUs channels_last, compiled, max_autotune.',
)


class Suite(NamedTuple):
  """A row of `SUITES`.

  Attributes:
    module: has `choose_settings`, which takes the flags, and `measure`, which
      takes the settings and returns those sections of the record.
    report: has `describe`, the text to print of a record.
    flags: those of this program that it knows, by name.
    advice: what to do where the memory is not enough.
    prepare: is called with the flags' values before jax is imported.
  """

  module: str
  report: str
  flags: Sequence[str]
  advice: str = 'try a smaller --batch_size'
  prepare: Callable[..., None] = lambda **_: None


def _prepare_losses(*, target, **_):
  if target == 'tpu':
    from experiments import _benchmark_tpu

    _benchmark_tpu.prepare()


def _prepare_train(**_):
  # Else JAX would take most of a GPU's memory, and PyTorch needs some.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')


def _prepare_start(**given):
  from experiments import _benchmark_start

  # The runs must be over before this process takes the devices.
  _benchmark_start.start_runs(**given)


_TURNS = ('rounds', 'steps_per_round')
_STEP = ('model', 'image_size', 'batch_size', 'num_classes', 'dtype', *_TURNS)

SUITES = {
  'step': Suite('_benchmark_step', '_benchmark_report', _STEP),
  'train': Suite(
    '_benchmark_train',
    '_benchmark_train_report',
    (*_STEP, 'variants'),
    prepare=_prepare_train,
  ),
  'losses': Suite(
    '_benchmark_loss_suite',
    '_benchmark_loss_report',
    ('target', 'shapes', 'losses', 'dtype', *_TURNS),
    advice='try smaller --shapes',
    prepare=_prepare_losses,
  ),
  'diagnostics': Suite(
    '_benchmark_diagnostics',
    '_benchmark_diagnostics',
    ('shapes', 'features', 'batch_size', 'resamples', 'rounds'),
    advice='try smaller --shapes',
  ),
  'pipeline': Suite(
    '_benchmark_pipeline_suite',
    '_benchmark_pipeline_report',
    ('image_size', 'batch_size', *_TURNS),
  ),
  'start': Suite(
    '_benchmark_start',
    '_benchmark_start',
    ('card', 'rounds'),
    prepare=_prepare_start,
  ),
}


def _chosen_suite():
  """The suite, and the values of its flags."""
  if _SUITE.value not in SUITES:
    raise _cli.UsageError(
      f'unknown suite {_SUITE.value!r}; known: {", ".join(SUITES)}'
    )
  for flag in {flag for suite in SUITES.values() for flag in suite.flags}:
    owners = [name for name, suite in SUITES.items() if flag in suite.flags]
    if _SUITE.value not in owners and flags.FLAGS[flag].present:
      raise _cli.UsageError(
        f'--{flag} belongs to --suite={" or ".join(owners)}'
      )
  suite = SUITES[_SUITE.value]
  return suite, {name: flags.FLAGS[name].value for name in suite.flags}


def _load(module):
  return importlib.import_module(f'experiments.{module}')


def main():
  suite, given = _chosen_suite()
  out = _OUT.value
  if out is None:
    out = f'runs/benchmark-{_SUITE.value}.json'
  out = _cli.checked_out(out)
  suite.prepare(**given)
  _processes.join_processes()
  import jax

  from experiments import _benchmark_machine

  # A compilation that is read from a cache takes no time worth reporting.
  jax.config.update('jax_enable_compilation_cache', False)
  started = _benchmark_machine.record_start()
  try:
    module = _load(suite.module)
    measured = module.measure(module.choose_settings(**given))
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    raise _cli.UsageError(
      f'the devices have not enough memory; {suite.advice}'
    ) from e
  if jax.process_index() > 0:
    return
  record = {'schema': 1, 'suite': _SUITE.value, **started, **measured}
  print(_load(suite.report).describe(record))
  if out:
    out.write_text(json.dumps(record, indent=2) + '\n')
    print(f'\nwritten to {out}')


if __name__ == '__main__':
  _cli.run(main, several=True)
