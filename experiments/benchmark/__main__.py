"""Measures speed: things side by side, in turns, with quartiles.

  python -m experiments.benchmark
  python -m experiments.benchmark --suite=losses --target=tpu

Every round takes some steps of each, in an order that changes from round to
round, so that a drift of the machine hits all alike; ratios are those of the
same round. Nothing is timed before it was found to compute the same as what it
is compared with. The suites:

  step         the training step with cross-entropy, label smoothing and MaxSup,
               of `experiments.train`, on all devices, on synthetic images that
               lie there already; needs neither datasets nor grain.
  train        the step of ResNet-50 and DeiT-S beside the same in PyTorch,
               plain, channels_last and through torch.compile; the ratio is
               about the fastest. On a CPU also what else XLA offers there.
  losses       value and gradient of each loss against optax's cross-entropy,
               the loss as one would write it with optax, and PyTorch. With
               --target=tpu they are compiled for a TPU v5e on a machine without
               one, and not timed; that needs `pip install libtpu`.
  diagnostics  the tables of a report, the bootstrap and neural collapse.
  pipeline     images/s from JPEG files to batches, beside PIL and, where they
               are installed, torchvision and tf.data; and each stage alone.
  start        from the command of a run to its first step, without and with the
               programs that an earlier start has compiled; and `--help`.

FLOPs "as written" are XLA's count before it optimises, without multiplications
with padding; "as compiled" lacks, on GPUs, what XLA hands to cuBLAS and cuDNN
(github.com/jax-ml/jax/issues/22249). Numbers of different machines compare only
with the same flags.
"""

import importlib
import os

from absl import flags

from experiments import _cli, _processes
from maxsup_jax import files
from maxsup_jax.errors import one_of

_SUITE = flags.DEFINE_string(
  'suite',
  'step',
  'What to measure: step, train, losses, diagnostics, pipeline, start.',
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Write everything, including each round, to this file as JSON; empty for '
  'none (default: runs/benchmark-SUITE.json).',
)
for _name, _text in {
  'model': 'A name of maxsup_jax.models. step: resnet18 on CPU, else resnet50. '
  'train: resnet50 and vit_small.',
  'dtype': 'step, train: of the computation; float32 on CPU, else bfloat16. '
  'losses: of the logits; float32.',
  'target': 'losses: here, or tpu to compile for a TPU without one.',
  'card': 'start: the run card; configs/digits.py.',
}.items():
  flags.DEFINE_string(_name, None, _text)
for _name, _text in {
  'shapes': 'Examples x classes. losses: 4096x1000,1024x21843,8192x32000. '
  'diagnostics: 50000x1000.',
  'losses': 'losses: some of them; all.',
  'variants': 'train: how PyTorch runs: plain, channels_last, compiled; all of '
  'them. On GPUs channels_last, compiled, max_autotune.',
}.items():
  flags.DEFINE_list(_name, None, _text)
for _name, _low, _text in (
  (
    'image_size',
    1,
    'Side of the images. step: 32 on CPU, else 224; below 64 a ResNet has the '
    'stem for CIFAR. train, pipeline: 224.',
  ),
  (
    'batch_size',
    1,
    'step: images in a step, over all devices; 16 a device on CPU, else 256. '
    'train: 8 on CPU, else 256. pipeline: 64. diagnostics: rows in an update '
    'of neural collapse; 4096.',
  ),
  ('num_classes', 2, 'step: 100 on CPU, else 1000. train: 1000.'),
  (
    'rounds',
    2,
    'How often all take turns. losses: what takes a minute, but 5 to 20.',
  ),
  (
    'steps_per_round',
    1,
    'Steps of each in a round. step, train: 1 on CPU, else 20. pipeline: 3. '
    'losses: what takes some time.',
  ),
  ('features', 1, 'diagnostics: of an example; 2048.'),
  ('resamples', 1, 'diagnostics: of the bootstrap; 1000.'),
):
  flags.DEFINE_integer(_name, None, _text, lower_bound=_low)

_TURNS = ('rounds', 'steps_per_round')
_STEP = ('model', 'image_size', 'batch_size', 'num_classes', 'dtype', *_TURNS)

# The flags of each. The module of that name has `measure`, which takes them and
# gives the sections `settings` and `results` of the record, and `describe`,
# which gives a record as lines.
SUITES = {
  'step': _STEP,
  'train': (*_STEP, 'variants'),
  'losses': ('target', 'shapes', 'losses', 'dtype', *_TURNS),
  'diagnostics': ('shapes', 'features', 'batch_size', 'resamples', 'rounds'),
  'pipeline': ('image_size', 'batch_size', *_TURNS),
  'start': ('card', 'rounds'),
}


def _given(suite):
  """The values of the flags of a suite; refuses those of others."""
  for flag in sorted({flag for names in SUITES.values() for flag in names}):
    owners = [name for name, names in SUITES.items() if flag in names]
    if suite not in owners and flags.FLAGS[flag].present:
      raise _cli.UsageError(
        f'--{flag} belongs to --suite={" or ".join(owners)}'
      )
  return {name: flags.FLAGS[name].value for name in SUITES[suite]}


def main():
  from experiments.benchmark import report

  suite = one_of('--suite', _SUITE.value, SUITES)
  given = _given(suite)
  out = f'runs/benchmark-{suite}.json' if _OUT.value is None else _OUT.value
  out = files.check_writable(out) if out else None
  if given.get('target') == 'tpu':
    from experiments.benchmark import tpu

    tpu.prepare('--target=tpu')
  # Else JAX would take most of a GPU's memory, and PyTorch needs some.
  if suite == 'train':
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  started = report.started(suite)
  _processes.join_processes()
  import jax

  # A compilation that is read from a cache takes no time worth reporting.
  jax.config.update('jax_enable_compilation_cache', False)
  module = importlib.import_module(f'experiments.benchmark.{suite}')
  try:
    # The runs of `start` need the devices: nothing before takes them.
    measured = module.measure(**given)
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    size = 'smaller --shapes' if 'shapes' in given else 'a smaller --batch_size'
    raise _cli.UsageError(
      f'the devices do not have enough memory; try {size}'
    ) from e
  if jax.process_index() == 0:
    report.publish(started, measured, module.describe, out)


if __name__ == '__main__':
  _cli.run(main, several=True)
