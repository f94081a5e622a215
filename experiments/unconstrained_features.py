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

import statistics

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
_ALPHAS = flags.DEFINE_list(
  'alphas', ['0', '0.05', '0.1', '0.2'], 'Strengths of LS and MaxSup.'
)
_OBJECTIVES = flags.DEFINE_list(
  'objectives', ['ce', 'ls', 'maxsup'], 'Some of ce, ls, maxsup.'
)
_STEPS = flags.DEFINE_integer(
  'steps', 4000, 'Steps of gradient descent.', lower_bound=1
)
_LR = flags.DEFINE_float('lr', 1.0, 'Its learning rate.')
_SEEDS = flags.DEFINE_list(
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
  if not _OUT.value:
    raise _cli.UsageError('--out is needed: the directory for all files')
  alphas = _numbers('alphas', _ALPHAS.value, float)
  seeds = _numbers('seeds', _SEEDS.value, int)
  import tqdm

  from maxsup_jax.reports import unconstrained as figures
  from maxsup_jax.reports.directory import Directory
  from maxsup_jax.studies import unconstrained as study
  from maxsup_jax.training.provenance import provenance

  settings = {
    name: flags.FLAGS[name].value
    for name in (
      'num_classes',
      'per_class',
      'dim',
      'lambda_w',
      'lambda_h',
      'lambda_b',
    )
  }
  descent = study.Descent(_STEPS.value, _LR.value, seeds, _INIT_SCALE.value)
  problems = study.make_problems(_OBJECTIVES.value, alphas, **settings)
  out = Directory(_OUT.value, KIND, overwrite=_OVERWRITE.value)
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
      'steps': _STEPS.value,
      'lr': _LR.value,
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
  written = [out.path / name for name in ('results.json', *files)]
  print('\nwritten: ' + ', '.join(map(str, written)))


def _numbers(flag, texts, kind):
  """The values of a list flag, without repetitions."""
  values = []
  for text in texts:
    try:
      values.append(kind(text))
    except ValueError:
      raise _cli.UsageError(
        f'--{flag} has {text!r}; expected comma-separated {kind.__name__}s'
      ) from None
  if not values:
    raise _cli.UsageError(f'--{flag} is empty')
  return list(dict.fromkeys(values))


def _title(objective, alpha):
  name = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}[objective]
  return name if objective == 'ce' else f'{name} {alpha:g}'


def _print(records):
  """Prints the closed form, and means over the seeds of what is recorded."""
  from maxsup_jax.studies import unconstrained as study

  rows = []
  for record in records:
    best, conditions = record['closed_form'], record['condition_numbers']
    rows.append(
      [
        f'{best["margin"]:.4f}',
        f'{best["probability"]:.4f}',
        f'{best["weight_norm"]:.4f}',
        f'{best["feature_norm"]:.4f}',
        f'{conditions["data"]:.4f}' if conditions else '-',
        f'{record["solver"]["gap"]["value"]:.0e}',
      ]
    )
  names = ('beta', 'p', '|w|', '|h|', 'kappa (a)', 'L-BFGS gap')
  _print_table('minimiser', names, records, rows)
  names = [f'{m.upper()}<{t:g}' for m, t in study.THRESHOLDS]
  rows = [
    [_mean_and_range(v, '.0f') for v in record['steps'].values()]
    for record in records
  ]
  _print_table('steps to', names, records, rows)
  names = [f'NC1={level:g}' for level in study.NC1_LEVELS]
  rows = [
    [_mean_and_range(v, '.3f') for v in record['nc2_at_nc1'].values()]
    for record in records
  ]
  _print_table('NC2 when', names, records, rows)
  print('\nmean over the seeds, and range; - where a seed does not reach it')


def _print_table(title, names, records, rows):
  width = 2 + max(len(cell) for row in [names, *rows] for cell in row)
  print(f'\n{title:<12}' + ''.join(f'{name:>{width}}' for name in names))
  for record, row in zip(records, rows):
    name = _title(record['objective'], record['alpha'])
    print(f'{name:<12}' + ''.join(f'{cell:>{width}}' for cell in row))


def _mean_and_range(values, form):
  if None in values:
    return '-'
  text = format(statistics.mean(values), form)
  if len(values) > 1:
    text += f' ({min(values):{form}}-{max(values):{form}})'
  return text


if __name__ == '__main__':
  _cli.run(main)
