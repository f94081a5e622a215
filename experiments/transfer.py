"""Linear transfer: frozen features of runs on another dataset.

  python -m experiments.transfer --workdir=runs/ce --workdir=runs/ls \
    --workdir=runs/maxsup --dataset=cifar10 --out=runs/transfer

The penultimate features of --train_split are standardised, and a multinomial
logistic regression is fitted to them by L-BFGS for each of 45 strengths from
1e-6 to 1e5 (Kornblith et al., 2019). The one with the best accuracy on a fifth
of each class, which is held out, is fitted again on all, and tested on
--test_split; beside it stands the vote of the 20 nearest neighbours. Images go
through each run's own eval_transform. Features are kept in memory: 50,000 of
2,048 numbers are 0.8 GB.

It prints a table, and writes results.json and strengths.png to --out. The
classifier is fitted on the CPU, in float64; features are computed on all
devices of one process.
"""

import json

from absl import flags

from experiments import _cli, _processes

flags.DEFINE_multi_string(
  'workdir', [], 'A run whose features to take; repeat it to compare runs.'
)
flags.DEFINE_string('dataset', None, 'The dataset to classify.')
flags.DEFINE_string('train_split', 'train', 'What is fitted.')
flags.DEFINE_string('test_split', 'test', 'What is tested.')
flags.DEFINE_integer(
  'image_size', None, "Resize images to squares of this side; the run's own."
)
flags.DEFINE_float('held_out', 0.2, 'The share that chooses the strength.')
flags.DEFINE_integer('seed', 0, 'Chooses the examples that are held out.')
flags.DEFINE_string('out', None, 'The directory of the results.')
_cli.define_run_flags(split=False)


def main():
  workdirs = _cli.needed('workdir')
  dataset = _cli.needed('dataset', 'what to classify')
  out = _cli.needed('out', 'the directory of the results')
  _processes.refuse_several('transfer')
  _cli.check_runs(*workdirs, images=True)
  from pathlib import Path

  from maxsup_jax import files
  from maxsup_jax.reports.transfer import strengths
  from maxsup_jax.studies import transfer

  out = Path(out)
  files.check_writable(out / 'results.json')
  _cli.keep_compiled(workdirs[0])
  names = ('train_split', 'test_split', 'image_size', 'held_out', 'seed')
  given = _cli.values(*names, 'step', 'weights', 'data_dir')
  found = transfer.transfer(workdirs, dataset, **given)
  picture = strengths([r.name for r in found], [r.probe for r in found])
  records = {'dataset': dataset, 'runs': [r.record() for r in found]}
  files.write(out / 'results.json', json.dumps(records, indent=2) + '\n')
  files.write(out / 'strengths.png', picture)
  print(f'{transfer.table(found)}\n\nwritten to {out}')
  return 0


if __name__ == '__main__':
  _cli.run(main)
