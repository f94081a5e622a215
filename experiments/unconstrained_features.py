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

import csv
import dataclasses
import io
import math
import pathlib
import statistics

from absl import flags

from experiments import _cli

_OUT = flags.DEFINE_string('out', None, 'The directory for all files.')
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace the results that are in --out.'
)
_NUM_CLASSES = flags.DEFINE_integer('num_classes', 10, 'K.', lower_bound=2)
_PER_CLASS = flags.DEFINE_integer(
  'per_class', 10, 'n, examples of each class.', lower_bound=2
)
_DIM = flags.DEFINE_integer(
  'dim', 32, 'D, features of an example, at least K - 1.', lower_bound=1
)
_LAMBDA_W = flags.DEFINE_float('lambda_w', 1e-3, 'Penalty of the weights.')
_LAMBDA_H = flags.DEFINE_float('lambda_h', 1e-3, 'Penalty of the features.')
_LAMBDA_B = flags.DEFINE_float('lambda_b', 1e-3, 'Penalty of the bias.')
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
  'seeds', ['0', '1', '2', '3', '4'], 'Of the random starts.'
)
_INIT_SCALE = flags.DEFINE_float(
  'init_scale',
  None,
  'Standard deviation of the starts; D^(-1/2) if not given.',
)

# What results.json calls itself.
KIND = 'study of unconstrained features'

# What the table counts steps to.
THRESHOLDS = (
  ('nc1', 1e-2),
  ('nc1', 1e-4),
  ('nc2', 1e-1),
  ('nc2', 1e-2),
  ('nc3', 1e-2),
)
# And where it reads NC2.
NC1_LEVELS = (1e-1, 1e-2, 1e-3)


def main():
  if not _OUT.value:
    raise _cli.UsageError('--out is needed: the directory for all files')
  alphas = _numbers('alphas', _ALPHAS.value, float)
  seeds = _numbers('seeds', _SEEDS.value, int)
  if min(seeds) < 0:
    raise _cli.UsageError(f'--seeds has {min(seeds)}; expected whole numbers')
  for name, value in (('lr', _LR.value), ('init_scale', _INIT_SCALE.value)):
    if value is not None and not 0 < value < math.inf:
      raise _cli.UsageError(f'--{name}={value}: expected a number > 0')
  from maxsup_jax.diagnostics import unconstrained

  problems = _problems(alphas)
  if problems[0].epsilon >= 1:
    raise _cli.UsageError(
      f'epsilon = K sqrt(n lambda_w lambda_h) is {problems[0].epsilon:.6g}, '
      'and the minimiser 0 from 1 on; try a smaller --lambda_w or --lambda_h'
    )
  import tqdm

  from maxsup_jax.reports.directory import Directory
  from maxsup_jax.training.provenance import provenance

  out = Directory(pathlib.Path(_OUT.value), KIND, overwrite=_OVERWRITE.value)
  started = provenance()
  solutions, paths = [], {}
  with tqdm.tqdm(total=len(problems) * (1 + len(seeds))) as progress:
    for problem in problems:
      progress.set_description(_title(problem.objective, problem.alpha))
      solutions.append(
        unconstrained.solve(problem, seed=seeds[0], scale=_INIT_SCALE.value)
      )
      progress.update()
      for seed in seeds:
        paths[problem, seed] = unconstrained.gradient_descent(
          problem,
          steps=_STEPS.value,
          learning_rate=_LR.value,
          seed=seed,
          scale=_INIT_SCALE.value,
        )
        progress.update()
  records = [
    _record(s, [paths[s.problem, seed] for seed in seeds]) for s in solutions
  ]
  record = {
    'schema': 1,
    **started,
    'settings': {
      'num_classes': _NUM_CLASSES.value,
      'per_class': _PER_CLASS.value,
      'dim': _DIM.value,
      'lambda_w': _LAMBDA_W.value,
      'lambda_h': _LAMBDA_H.value,
      'lambda_b': _LAMBDA_B.value,
      'epsilon': problems[0].epsilon,
      'steps': _STEPS.value,
      'lr': _LR.value,
      'init_scale': _INIT_SCALE.value or _DIM.value**-0.5,
      'seeds': seeds,
      'conventions': 'NC1 with 1/K; NC3 not squared; class means centred',
    },
    'results': records,
  }
  files = _draw(problems[0], solutions, list(paths.values()))
  files['trajectories.csv'] = _csv(paths)
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
        f'--{flag} has {text!r}; expected {kind.__name__}s, comma separated'
      ) from None
  if not values:
    raise _cli.UsageError(f'--{flag} is empty')
  return list(dict.fromkeys(values))


def _problems(alphas):
  """What is solved: CE once, and the others with every alpha but 0."""
  from maxsup_jax.diagnostics import unconstrained

  chosen = []
  for objective in dict.fromkeys(_OBJECTIVES.value):
    if objective not in unconstrained.OBJECTIVES:
      raise _cli.UsageError(
        f'--objectives has {objective!r}; known: '
        + ', '.join(unconstrained.OBJECTIVES)
      )
    own = [0.0] if objective == 'ce' else [a for a in alphas if a]
    chosen += [
      unconstrained.Problem(
        _NUM_CLASSES.value,
        _PER_CLASS.value,
        _DIM.value,
        objective=objective,
        alpha=alpha,
        lambda_w=_LAMBDA_W.value,
        lambda_h=_LAMBDA_H.value,
        lambda_b=_LAMBDA_B.value,
      )
      for alpha in own
    ]
  if not chosen:
    raise _cli.UsageError(
      '--objectives and --alphas leave nothing to do: an alpha of 0 is ce'
    )
  return chosen


def _title(objective, alpha):
  name = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}[objective]
  return name if objective == 'ce' else f'{name} {alpha:g}'


def _record(solution, paths):
  """All numbers of a problem, as JSON knows them."""
  from maxsup_jax.diagnostics import unconstrained

  problem = solution.problem
  best = unconstrained.minimizer(problem)
  conditions = None
  if not problem.trivial:
    conditions = dataclasses.asdict(unconstrained.condition_numbers(problem))
  return {
    'objective': problem.objective,
    'alpha': problem.alpha,
    'closed_form': {
      name: getattr(best, name)
      for name in (
        'trivial',
        'margin',
        'probability',
        'other_probability',
        'weight_norm',
        'feature_norm',
        'value',
      )
    },
    'condition_numbers': conditions,
    'solver': {
      'steps': solution.steps,
      'gradient': solution.gradient,
      'converged': solution.converged,
      'gap': dataclasses.asdict(unconstrained.gap(solution, best)),
    },
    # A value for each seed; null where it is not reached.
    'steps': {
      f'{metric}<{threshold:g}': [
        _known(unconstrained.steps_to_threshold(p, metric, threshold))
        for p in paths
      ]
      for metric, threshold in THRESHOLDS
    },
    'nc2_at_nc1': {
      f'{level:g}': [
        _known(unconstrained.metric_at_threshold(p, 'nc2', 'nc1', level))
        for p in paths
      ]
      for level in NC1_LEVELS
    },
    # After it, LS and MaxSup of one start take equal steps.
    'last_step_with_errors': [
      int(p.steps[p.error > 0].max(initial=-1)) for p in paths
    ],
  }


def _known(value):
  return None if math.isnan(value) else value


def _draw(problem, solutions, paths):
  from maxsup_jax.reports import unconstrained as figures

  files = {}
  for name, figure in (
    ('closed_form', figures.closed_form_figure(problem, solutions)),
    ('trajectories', figures.trajectories_figure(paths)),
    ('condition', figures.condition_figure(problem)),
  ):
    for kind in ('png', 'svg'):
      content = io.BytesIO()
      # Without the date an SVG is the same for the same numbers.
      metadata = {'Date': None} if kind == 'svg' else None
      figure.savefig(content, format=kind, dpi=150, metadata=metadata)
      files[f'{name}.{kind}'] = content.getvalue()
  return files


def _csv(paths):
  from maxsup_jax.diagnostics import unconstrained

  columns = ('value', 'error', 'nc1', 'nc2', 'nc3')
  columns += ('weight_norm', 'feature_norm')
  kept = unconstrained.log_spaced_steps(_STEPS.value)
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(['objective', 'alpha', 'seed', 'step', *columns])
  for (problem, seed), trajectory in paths.items():
    for step in kept:
      values = [f'{getattr(trajectory, c)[step]:.8g}' for c in columns]
      writer.writerow([problem.objective, problem.alpha, seed, step, *values])
  return text.getvalue()


def _print(records):
  """Prints the closed form, and means over the seeds of what is recorded."""
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
  names = [f'{m.upper()}<{t:g}' for m, t in THRESHOLDS]
  rows = [
    [_mean_and_range(v, '.0f') for v in record['steps'].values()]
    for record in records
  ]
  _print_table('steps to', names, records, rows)
  names = [f'NC1={level:g}' for level in NC1_LEVELS]
  rows = [
    [_mean_and_range(v, '.3f') for v in record['nc2_at_nc1'].values()]
    for record in records
  ]
  _print_table('NC2 when', names, records, rows)
  print('\nmean over the seeds, and range; - where a seed does not get there')


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
