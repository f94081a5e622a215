"""Runs a study: several objectives over seeds, and what the papers claim.

  python -m experiments.study --config=configs/study_digits.py \
    --workdir=runs/study --jobs=2

Every run is a work directory in WORKDIR/runs that `experiments.train` could
have made; what is measured of it is in its measures.json. At the end, or with
--collect at any time, what is finished becomes WORKDIR/study.json, study.html
and figures/. The same command goes on where it was stopped.

On a cluster, let the scheduler start the parts of a job array on a shared
directory, --shard=0/8 to --shard=7/8, and --collect at the end; or one job for
each command that --list prints.

Exit codes: 0 finished, 1 some runs failed, 2 the input is wrong, 130 and 143
stopped by Ctrl-C or SIGTERM.
"""

import shlex
import sys
from pathlib import Path

from absl import flags

from experiments import _cli, _processes
from maxsup_jax import files

flags.DEFINE_string(
  'config',
  'configs/study_digits.py',
  'Card of the study, path.py or path.py:name=value,...',
)
flags.DEFINE_string('workdir', None, 'Directory of the study.')
_JOBS = flags.DEFINE_integer(
  'jobs',
  1,
  'Runs at a time; on a CPU each gets its share of the cores.',
  lower_bound=1,
)
_SHARD = flags.DEFINE_string(
  'shard', '0/1', 'The part of the runs to train, I/N with I from 0 to N-1.'
)
_LIST = flags.DEFINE_bool(
  'list', False, 'Only print one command for each run that is not measured.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Only say how many runs there are, their disk and time.'
)
_COLLECT = flags.DEFINE_bool('collect', False, 'Only collect what is finished.')
_RUN = flags.DEFINE_string('run', None, 'Only this run, such as ls/seed0.')
_cli.define_data_dir()
_cli.define_compilation_cache()


def main():
  given = _cli.needed('workdir', 'the directory of the study')
  files.require_disk('workdir', given)
  workdir = Path(given)
  _processes.refuse_several('study')
  card = flags.FLAGS.config
  study = _cli.load_card(card, 'get_study')
  from maxsup_jax.studies import running
  from maxsup_jax.studies.study import parse_shard

  shard = parse_shard(_SHARD.value)
  running.check_workdir(study, workdir)
  if _RUN.value:
    return _one(study, study.run(_RUN.value), workdir)
  left = [
    r for r in study.runs(shard) if running.measured(study, r, workdir) is None
  ]
  if _LIST.value:
    for run in left:
      print(shlex.join(['python', *_command(card, run)]))
    return 0
  if _DRY_RUN.value:
    from maxsup_jax.studies.estimating import estimate

    print(estimate(study, left, workdir, jobs=_JOBS.value, **_data()))
    return 0
  failed, code = [], 0
  if not _COLLECT.value:
    try:
      failed = running.run_all(
        study,
        workdir,
        lambda run: [sys.executable, *_command(card, run)],
        shard=shard,
        jobs=_JOBS.value,
      )
    except running.Interrupted as e:
      print(e, file=sys.stderr)
      code = 128 + e.signal
  _collect(study, workdir)
  for run in failed:
    print(f'failed: {run.name}', file=sys.stderr)
  return code or int(bool(failed))


def _command(card, run):
  """The arguments of the Python that trains one run."""
  given = ['-m', 'experiments.study', f'--config={card}', f'--run={run.name}']
  names = ('workdir', 'data_dir', 'compilation_cache')
  values = _cli.values(*names)
  return [*given, *(f'--{n}={v}' for n, v in values.items() if v is not None)]


def _data():
  return _cli.values('data_dir')


def _one(study, run, workdir):
  from maxsup_jax.studies import running
  from maxsup_jax.studies.study import directory
  from maxsup_jax.training import loop

  running.end_with_study()
  _cli.keep_compiled(directory(workdir, run).parent)
  try:
    running.train_and_measure(study, run, workdir, **_data())
  except loop.Stopped as e:
    print(e, file=sys.stderr)
    return 128 + e.signal
  except loop.NonFiniteError as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  return 0


def _collect(study, workdir):
  from maxsup_jax.reports import study as page
  from maxsup_jax.studies.collecting import collect

  record = collect(study, workdir)
  page.write(record, workdir)
  print(page.as_text(record))
  print(f'\n{workdir / "study.html"}')


if __name__ == '__main__':
  _cli.run(main)
