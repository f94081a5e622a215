"""Collapse without a network: the unconstrained feature model, drawn.

  python -m experiments.unconstrained_features --out=DIR

The features of the training examples are free variables, minimised together
with the weights and the bias of a linear classifier; all are penalised. CE and
label smoothing (LS) are of Guo et al., https://arxiv.org/abs/2402.03979; MaxSup
is an extension here. Three figures are drawn, as PNG and SVG:

  closed_form   logits, softmax and norms of the minimiser over alpha, with what
                L-BFGS finds from a random start laid over.
  trajectories  NC1, NC2 and NC3 along plain gradient descent, and NC2 where NC1
                first reaches a level. LS and MaxSup differ only while there are
                training errors, that is in the first steps.
  condition     the condition number at the minimiser, in four senses: the first
                is how this package reads the paper's claim, and the others
                usually go the other way.

Beside them: results.json with the settings, versions and all numbers, and
trajectories.csv, a line for each objective, alpha, seed and recorded step.

What converges first depends on the start, too: see --init_scale. An alpha
of 0 is CE.
"""

import math
import statistics
import sys

from absl import flags

from experiments import _cli

_OUT = flags.DEFINE_string('out', None, 'The directory for all files.')
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace the results in --out.'
)
flags.DEFINE_integer('num_classes', 10, 'K.', lower_bound=2)
flags.DEFINE_integer(
  'per_class', 10, 'n, examples of each class.', lower_bound=2
)
_DIM = flags.DEFINE_integer(
  'dim', 32, 'D, features of an example, at least K - 1.', lower_bound=1
)
flags.DEFINE_float('lambda_w', 1e-3, 'Penalty of the weights.')
flags.DEFINE_float('lambda_h', 1e-3, 'Penalty of the features.')
flags.DEFINE_float('lambda_b', 1e-3, 'Penalty of the bias.')
flags.DEFINE_list(
  'alphas', ['0', '0.05', '0.1', '0.2'], 'Strengths of LS and MaxSup.'
)
_OBJECTIVES = flags.DEFINE_list(
  'objectives', ['ce', 'ls', 'maxsup'], 'Some of ce, ls, maxsup.'
)
flags.DEFINE_integer('steps', 4000, 'Steps of gradient descent.', lower_bound=1)
flags.DEFINE_float('lr', 1.0, 'Its learning rate.')
flags.DEFINE_list(
  'seeds', ['0', '1', '2', '3', '4'], 'Seeds of the random starts.'
)
_INIT_SCALE = flags.DEFINE_float(
  'init_scale',
  None,
  'Standard deviation of the starts; by default D^(-1/2).',
)

# What results.json calls itself.
KIND = 'study of unconstrained features'


def main():
  _cli.needed('out', 'the directory for all files')
  alphas, seeds = _cli.numbers('alphas', float), _cli.numbers('seeds')
  # What takes seconds to import is imported when nothing is wrong.
  from maxsup_jax.reports.directory import Directory
  from maxsup_jax.studies import unconstrained as study

  settings = _cli.values(
    *('num_classes', 'per_class', 'dim', 'lambda_w', 'lambda_h', 'lambda_b')
  )
  steps = _cli.values('steps', 'lr')
  descent = study.Descent(**steps, seeds=seeds, init_scale=_INIT_SCALE.value)
  problems = study.make_problems(_OBJECTIVES.value, alphas, **settings)
  out = Directory(_OUT.value, KIND, overwrite=_OVERWRITE.value)
  import tqdm

  from maxsup_jax.reports import unconstrained as figures
  from maxsup_jax.training.provenance import provenance

  started = provenance()
  with tqdm.tqdm(total=len(problems) * (1 + len(seeds))) as progress:
    found = study.run(problems, descent, progress.update)
  records = found.records()
  record = {
    'schema': 1,
    **started,
    'settings': {
      **settings,
      'epsilon': problems[0].epsilon,
      **steps,
      'init_scale': _INIT_SCALE.value or _DIM.value**-0.5,
      'seeds': seeds,
      'conventions': 'NC1 with 1/K; NC3 not squared; class means centred',
    },
    'results': records,
  }
  files = figures.files(
    problems[0], found.solutions, list(found.paths.values())
  )
  files['trajectories.csv'] = study.to_csv(found)
  out.write(files, record)
  _print(records)
  if lost := study.lost(found):
    print(
      f'warning: {len(lost)} of {len(found.paths)} descents end with a larger '
      f'loss than guessing, {math.log(problems[0].num_classes):.4f} '
      f'({lost[0]}); try a smaller --lr',
      file=sys.stderr,
    )
  written = [out.path / name for name in ('results.json', *files)]
  print('\nwritten: ' + ', '.join(map(str, written)))


def _print(records):
  """Prints the closed form, and means over the seeds of what is recorded."""
  found = {name: [] for name in ('minimiser', 'steps to', 'NC2 when')}
  for record in records:
    best, conditions = record['closed_form'], record['condition_numbers']
    name = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}[record['objective']]
    name += f' {record["alpha"]:g}' if record['alpha'] else ''
    cells = {
      'beta': f'{best["margin"]:.4f}',
      'p': f'{best["probability"]:.4f}',
      '|w|': f'{best["weight_norm"]:.4f}',
      '|h|': f'{best["feature_norm"]:.4f}',
      'kappa (a)': f'{conditions["data"]:.4f}' if conditions else '-',
      'L-BFGS gap': f'{record["solver"]["gap"]["value"]:.0e}',
    }
    steps = {
      n.upper(): _mean_and_range(v, '.0f') for n, v in record['steps'].items()
    }
    levels = {
      f'NC1={level}': _mean_and_range(v, '.3f')
      for level, v in record['nc2_at_nc1'].items()
    }
    for title, row in zip(found, (cells, steps, levels)):
      rows = found[title]
      if not rows:
        rows.append([title, *row])
      rows.append([name, *row.values()])
  for rows in found.values():
    width = 2 + max(len(cell) for row in rows for cell in row[1:])
    print()
    for first, *row in rows:
      print(f'{first:<12}' + ''.join(f'{cell:>{width}}' for cell in row))
  print('\nmean over the seeds, and range; - where a seed does not reach it')


def _mean_and_range(values, form):
  if None in values:
    return '-'
  text = format(statistics.mean(values), form)
  if len(values) > 1:
    text += f' ({min(values):{form}}-{max(values):{form}})'
  return text


if __name__ == '__main__':
  _cli.run(main)
