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

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments import _cli, _processes

_SUITE = flags.DEFINE_string(
  'suite', 'step', 'What to measure: step, train, losses, diagnostics, start.'
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Write everything, each round too, to this file as JSON; empty for none '
  '(default: runs/benchmark-SUITE.json).',
)
_MODEL = flags.DEFINE_string(
  'model',
  None,
  'A name of maxsup_jax.models. step: resnet18 on CPU, else resnet50. train: '
  'resnet50 and vit_small.',
)
_IMAGE_SIZE = flags.DEFINE_integer(
  'image_size',
  None,
  'Side of the images. step: 32 on CPU, else 224; below 64 a ResNet has the '
  'stem for CIFAR. train: 224.',
  lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size',
  None,
  'step: images in a step, over all devices; 16 a device on CPU, else 256. '
  'train: 8 on CPU, else 256. diagnostics: rows in an update of neural '
  'collapse; 4096.',
  lower_bound=1,
)
_NUM_CLASSES = flags.DEFINE_integer(
  'num_classes',
  None,
  'step: 100 on CPU, else 1000. train: 1000.',
  lower_bound=2,
)
_DTYPE = flags.DEFINE_string(
  'dtype',
  None,
  'step, train: of the computation; float32 on CPU, else bfloat16. losses: of '
  'the logits; float32.',
)
_ROUNDS = flags.DEFINE_integer(
  'rounds',
  None,
  'How often the objectives take turns. step: 12. losses: what takes a minute, '
  'but 5 to 20. diagnostics, start: 5.',
  lower_bound=2,
)
_STEPS_PER_ROUND = flags.DEFINE_integer(
  'steps_per_round',
  None,
  'Steps of each objective in a round. step: 1 on CPU, else 20. losses: what '
  'takes some time.',
  lower_bound=1,
)
_SHAPES = flags.DEFINE_list(
  'shapes',
  None,
  'Examples x classes. losses: 4096x1000,1024x21843,8192x32000. diagnostics: '
  '50000x1000.',
)
_LOSSES = flags.DEFINE_list('losses', None, 'losses: some of them; all.')
_TARGET = flags.DEFINE_string(
  'target', 'here', 'losses: here, or tpu to compile for a TPU without one.'
)
_CARD = flags.DEFINE_string(
  'card', None, 'start: the run card; configs/digits.py.'
)
_FEATURES = flags.DEFINE_integer(
  'features', None, 'diagnostics: of an example; 2048.', lower_bound=1
)
_RESAMPLES = flags.DEFINE_integer(
  'resamples', None, 'diagnostics: of the bootstrap; 1000.', lower_bound=1
)


_VARIANTS = flags.DEFINE_list(
  'variants',
  None,
  'train: how PyTorch runs: plain, channels_last, compiled; all of them. On '
  'GPUs channels_last, compiled, max_autotune.',
)


class Suite(NamedTuple):
  """A row of `SUITES`.

  Attributes:
    measure: returns the settings and the results, as JSON knows them.
    describe: the text to print, of the whole record.
    flags: those that not all suites have, by name.
    advice: what to do where the memory is not enough.
    prepare: is called before jax is imported.
  """

  measure: Callable[[], dict[str, Any]]
  describe: Callable[[dict[str, Any]], str]
  flags: Sequence[str] = ()
  advice: str = 'try a smaller --batch_size'
  prepare: Callable[[], None] = lambda: None


def _measure_step():
  from experiments import _benchmark_pipeline, _benchmark_step

  settings = _benchmark_step.choose_settings(
    model=_MODEL.value,
    image_size=_IMAGE_SIZE.value,
    batch_size=_BATCH_SIZE.value,
    num_classes=_NUM_CLASSES.value,
    dtype=_DTYPE.value,
    rounds=_ROUNDS.value,
    steps_per_round=_STEPS_PER_ROUND.value,
  )
  measured = _benchmark_step.measure(settings)
  measured['results']['pipeline'] = _benchmark_pipeline.measure(settings)
  return measured


def _describe_step(record):
  from experiments import _benchmark_report

  return _benchmark_report.describe_step(record)


def _prepare_losses():
  if _TARGET.value == 'tpu':
    from experiments import _benchmark_tpu

    _benchmark_tpu.prepare()


def _measure_losses():
  from experiments import _benchmark_loss_suite

  settings = _benchmark_loss_suite.choose_settings(
    target=_TARGET.value,
    shapes=_SHAPES.value,
    losses=_LOSSES.value,
    dtype=_DTYPE.value,
    rounds=_ROUNDS.value,
    steps_per_round=_STEPS_PER_ROUND.value,
  )
  return _benchmark_loss_suite.measure(settings)


def _describe_losses(record):
  from experiments import _benchmark_loss_report

  return _benchmark_loss_report.describe(record)


def _measure_diagnostics():
  from experiments import _benchmark_diagnostics

  settings = _benchmark_diagnostics.choose_settings(
    shapes=_SHAPES.value,
    features=_FEATURES.value,
    batch_size=_BATCH_SIZE.value,
    resamples=_RESAMPLES.value,
    rounds=_ROUNDS.value,
  )
  return _benchmark_diagnostics.measure(settings)


def _describe_diagnostics(record):
  from experiments import _benchmark_diagnostics

  return _benchmark_diagnostics.describe(record)


def _prepare_start():
  from experiments import _benchmark_start

  _started.update(
    _benchmark_start.start_runs(
      _CARD.value or _benchmark_start.DEFAULT_CARD,
      _ROUNDS.value or _benchmark_start.DEFAULT_ROUNDS,
    )
  )


def _describe_start(record):
  from experiments import _benchmark_start

  return _benchmark_start.describe(record)


# The runs are over before this process takes the devices.
_started = {}


def _measure_pipeline():
  from experiments import _benchmark_pipeline_suite

  settings = _benchmark_pipeline_suite.choose_settings(
    image_size=_IMAGE_SIZE.value,
    batch_size=_BATCH_SIZE.value,
    rounds=_ROUNDS.value,
    steps_per_round=_STEPS_PER_ROUND.value,
  )
  return _benchmark_pipeline_suite.measure(settings)


def _describe_pipeline(record):
  from experiments import _benchmark_pipeline_report

  return _benchmark_pipeline_report.describe(record)


def _prepare_train():
  # Else JAX would take most of a GPU's memory, and PyTorch needs some.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')


def _measure_train():
  from experiments import _benchmark_train

  settings = _benchmark_train.choose_settings(
    model=_MODEL.value,
    variants=_VARIANTS.value,
    image_size=_IMAGE_SIZE.value,
    batch_size=_BATCH_SIZE.value,
    num_classes=_NUM_CLASSES.value,
    dtype=_DTYPE.value,
    rounds=_ROUNDS.value,
    steps_per_round=_STEPS_PER_ROUND.value,
  )
  return _benchmark_train.measure(settings)


def _describe_train(record):
  from experiments import _benchmark_train_report

  return _benchmark_train_report.describe(record)


SUITES = {
  'step': Suite(
    _measure_step,
    _describe_step,
    flags=('model', 'image_size', 'batch_size', 'num_classes'),
  ),
  'train': Suite(
    _measure_train,
    _describe_train,
    flags=('model', 'image_size', 'batch_size', 'num_classes', 'variants'),
    prepare=_prepare_train,
  ),
  'losses': Suite(
    _measure_losses,
    _describe_losses,
    flags=('shapes', 'losses', 'target'),
    advice='try smaller --shapes',
    prepare=_prepare_losses,
  ),
  'diagnostics': Suite(
    _measure_diagnostics,
    _describe_diagnostics,
    flags=('shapes', 'batch_size', 'features', 'resamples'),
    advice='try smaller --shapes',
  ),
  'pipeline': Suite(
    _measure_pipeline,
    _describe_pipeline,
    flags=('image_size', 'batch_size'),
  ),
  'start': Suite(
    lambda: _started,
    _describe_start,
    flags=('card',),
    prepare=_prepare_start,
  ),
}


def _chosen_suite():
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
  return SUITES[_SUITE.value]


def main():
  suite = _chosen_suite()
  out = _OUT.value
  if out is None:
    out = f'runs/benchmark-{_SUITE.value}.json'
  out = _cli.checked_out(out)
  suite.prepare()
  _processes.join_processes()
  import jax

  from experiments import _benchmark_machine

  # A compilation that is read from a cache takes no time worth reporting.
  jax.config.update('jax_enable_compilation_cache', False)
  started = _benchmark_machine.record_start()
  try:
    measured = suite.measure()
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    raise _cli.UsageError(
      f'the devices have not enough memory; {suite.advice}'
    ) from e
  if jax.process_index() > 0:
    return
  record = {'schema': 1, 'suite': _SUITE.value, **started, **measured}
  print(suite.describe(record))
  if out:
    out.write_text(json.dumps(record, indent=2) + '\n')
    print(f'\nwritten to {out}')


if __name__ == '__main__':
  _cli.run(main)
