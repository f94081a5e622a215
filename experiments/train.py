"""Trains a classifier, a segmenter or a translator, or resumes its training.

  python -m experiments.train --config=configs/digits.py:loss=ls --workdir=DIR

Exit codes: 0 finished, 1 a number became NaN or infinite, 2 the input is
wrong, 3 another process is gone, 130 and 143 stopped by Ctrl-C or SIGTERM after
saving. The same command goes on after 3, 130 and 143.
"""

import sys

from absl import flags

from experiments import _cli, _processes

_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Directory of the run; an unfinished run of the same config there is '
  'resumed. By default a directory under runs/, named after the config.',
)
_cli.define_data_dir()
_cli.define_compilation_cache()


def main():
  from maxsup_jax import tasks

  config = tasks.resolve(flags.FLAGS.config)
  tasks.check_names(config)
  path = _WORKDIR.value or tasks.default_workdir(config)
  if not _processes.are_several():
    tasks.open_workdir(path).check(config)
  _processes.join_processes(saves=True)
  import jax

  from maxsup_jax.tasks import metrics
  from maxsup_jax.training import loop

  first = jax.process_index() == 0
  workdir = tasks.open_workdir(path, writes=first)
  _processes.advise(workdir.advice)
  workdir.check(config)
  run = tasks.build(config, data_dir=flags.FLAGS.data_dir)
  if not workdir.has_checkpoints:
    # Before anything is written.
    run.check_first_state()
  _cli.keep_compiled(workdir.path)
  try:
    records = loop.train(run, workdir, began=_cli.BEGAN)
  except loop.Stopped as e:
    if first:
      print(e, file=sys.stderr)
    return 128 + e.signal
  except loop.NonFiniteError as e:
    if first:
      print(f'error: {e}', file=sys.stderr)
    return 1
  if first:
    print('\n' + metrics.table(records, made_up=run.task.made_up))
    print(f'\nwork directory: {workdir.path}')
  return 0


if __name__ == '__main__':
  _cli.run(main, config='configs/digits.py', several=True)
