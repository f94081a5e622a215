"""Evaluates a checkpoint of a run on any split of its dataset, or of another.

  python -m experiments.evaluate --workdir=DIR --split=train --step=1000
  python -m experiments.evaluate --workdir=DIR --dataset=imagenet_v2

The numbers are those that training printed, bit for bit on the same devices.
"""

import json

from absl import flags

from experiments import _cli, _processes

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run to evaluate.')
_OUT = flags.DEFINE_string(
  'out', None, 'Also write the numbers to this file, one JSON object a line.'
)
_cli.define_run_flags(weights=False)
_cli.define_dataset()


def main():
  _cli.check_runs(_cli.needed('workdir'))
  _processes.join_processes()
  import jax

  from maxsup_jax import files, tasks
  from maxsup_jax.tasks import metrics
  from maxsup_jax.training import agreement

  first = jax.process_index() == 0
  out = files.check_writable(_OUT.value) if first and _OUT.value else None
  given = _cli.values('step', 'split', 'dataset')
  workdir = tasks.open_workdir(_WORKDIR.value)
  agreement.require_same(workdir.config(), **given)
  loaded = tasks.load_run(
    _WORKDIR.value, data_dir=flags.FLAGS.data_dir, **given
  )
  _cli.keep_compiled(loaded.workdir.path)
  records = loaded.evaluate()
  if first:
    print('\n' + metrics.table(records, made_up=loaded.task.made_up))
    if out:
      files.write(out, ''.join(json.dumps(r) + '\n' for r in records))
  return 0


if __name__ == '__main__':
  _cli.run(main, several=True)
