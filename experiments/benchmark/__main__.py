"""Measures speed: things side by side, in turns, with quartiles.

  python -m experiments.benchmark
  python -m experiments.benchmark --suite=losses --target=tpu

Every round takes some steps of each, in an order that changes, so that a drift
of the machine hits all alike; ratios are those of the same round. Nothing is
timed before it was found to compute the same as what it is compared with.

  step         the training step with cross-entropy, label smoothing and MaxSup,
               on all devices, on synthetic images that lie there already.
  train        the step of ResNet-50 and DeiT-S beside the same in PyTorch,
               plain, channels_last and through torch.compile.
  losses       value and gradient of each loss against optax's cross-entropy and
               PyTorch. With --target=tpu they are compiled for a TPU v5e on a
               machine without one, and not timed; that needs `pip install
               libtpu`.
  fused        a last layer and its loss, with and without logits in memory,
               beside optax, PyTorch and tokamax; --target=tpu as above.
  decoding     sentences/s of a Transformer, greedy and by beam search, with and
               without a cache.
  diagnostics  the tables of a report, the bootstrap and neural collapse.
  pipeline     images/s from JPEG files to batches, beside PIL.
  start        from the command of a run to its first step, without and with the
               programs that an earlier start has compiled; and `--help`.
"""

import importlib
import importlib.util
import os
import re

from absl import flags

from experiments import _cli, _processes
from maxsup_jax import files
from maxsup_jax.errors import UsageError, one_of

# The flags of each. The module of that name has `measure`, which takes them and
# gives the sections `settings` and `results` of the record.
SUITES = {
  'step': ('model', 'batch_size', 'rounds'),
  'train': ('model', 'batch_size', 'rounds'),
  'losses': ('target', 'shapes', 'losses', 'rounds'),
  'fused': ('target', 'shapes', 'rounds'),
  'decoding': ('model', 'rounds'),
  'diagnostics': ('rounds',),
  'pipeline': ('rounds',),
  'start': ('rounds',),
}

_SUITE = flags.DEFINE_string(
  'suite', 'step', f'What to measure: {", ".join(SUITES)}.'
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Write everything, including each round, to this file as JSON; empty for '
  'none (default: runs/benchmark-SUITE.json).',
)
flags.DEFINE_string(
  'model', None, 'step, train, decoding: a name of maxsup_jax.models.'
)
flags.DEFINE_string('target', None, 'losses, fused: tpu, to compile for one.')
flags.DEFINE_list(
  'shapes',
  None,
  'losses: examples x classes, as 4096x1000; fused: examples x features x '
  'classes, as 4096x1024x32000.',
)
flags.DEFINE_list('losses', None, 'losses: some of them; all.')
flags.DEFINE_integer('batch_size', None, 'step, train: images in a step.', 1)
flags.DEFINE_integer('rounds', None, 'How often all take turns.', 2)


def _given(suite):
  """The values of the flags of a suite; refuses those of others."""
  for owner, names in SUITES.items():
    for name in set(names) - set(SUITES[suite]):
      if flags.FLAGS[name].present:
        raise UsageError(f'--{name} belongs to --suite={owner}')
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
  if suite == 'train':
    if importlib.util.find_spec('torch') is None:
      raise UsageError('--suite=train needs PyTorch, which is not installed')
    # Else JAX would take most of a GPU's memory, and PyTorch needs some.
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
  except (RuntimeError, MemoryError) as e:
    # The words of JAX, and of PyTorch on GPUs and CPUs.
    lack = 'RESOURCE_EXHAUSTED|out of memory|allocate memory|to allocate'
    if not re.search(lack, str(e)):
      raise
    raise UsageError(
      'the devices do not have enough memory; try smaller --shapes or '
      '--batch_size'
    ) from e
  if jax.process_index() == 0:
    report.publish(started, measured, out)


if __name__ == '__main__':
  _cli.run(main, several=True)
