"""Evaluates a checkpoint of a run on any split of its dataset.

  python -m experiments.evaluate --workdir=DIR --split=train --step=1000

The numbers are those that training printed, bit for bit on the same devices.
"""

import json

from absl import flags

from experiments import _cli, _compilation, _processes

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run to evaluate.')
_SPLIT = flags.DEFINE_string(
  'split', None, "A split of the dataset; by default the config's eval_split."
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Which checkpoint; by default the newest.'
)
_OUT = flags.DEFINE_string(
  'out', None, 'Write the numbers to this file, too, one JSON object a line.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where datasets are; tfds's own default if not given."
)

flags.declare_key_flag('compilation_cache')


def main():
  if _WORKDIR.value is None:
    raise _cli.UsageError('--workdir is needed: the directory of a run')
  _processes.join_processes()
  import jax

  from maxsup_jax.training import agreement, setup
  from maxsup_jax.training.checkpoints import Checkpoints
  from maxsup_jax.training.evaluation import evaluate
  from maxsup_jax.training.workdir import Workdir, finite

  first = jax.process_index() == 0
  out = _cli.checked_out(_OUT.value) if first else None
  directory = Workdir(_WORKDIR.value, writes=False)
  config = directory.config()
  split = _SPLIT.value or config.dataset.eval_split
  agreement.require_same(config, split=split, step=_STEP.value)
  run = setup.build(
    config, data_dir=_DATA_DIR.value, eval_split=split, training=False
  )
  _compilation.keep_compiled(directory.path)
  checkpoints = Checkpoints(directory.checkpoints)
  step = checkpoints.newest()
  if step is None:
    raise _cli.UsageError(f'no checkpoint in {directory.checkpoints}')
  if _STEP.value is not None:
    step = _STEP.value
  state, _ = checkpoints.restore(step, jax.eval_shape(run.init_state))
  state = run.devices.replicate(state)
  eval_step = run.devices.map(run.eval_step())
  records = [
    finite(
      {
        'kind': 'eval',
        'step': step,
        'split': split,
        'weights': weights,
        **evaluate(
          eval_step,
          state,
          run.eval_batches(),
          run.devices,
          ema=weights == 'ema',
          groups=run.groups,
        ),
      }
    )
    for weights in run.weights
  ]
  if first:
    _cli.print_table(records, made_up=config.dataset.mock is not None)
    if out:
      out.write_text(''.join(json.dumps(r) + '\n' for r in records))
  checkpoints.close()
  return 0


if __name__ == '__main__':
  _cli.run(main, several=True)
