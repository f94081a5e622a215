"""Figures of the unconstrained feature model."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from maxsup_jax.diagnostics import unconstrained
from maxsup_jax.errors import UsageError

# Of Okabe and Ito: most colour-blind readers can tell them apart.
COLORS = {'ce': '#000000', 'ls': '#E69F00', 'maxsup': '#0072B2'}
NAMES = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}
# LS and MaxSup often coincide: MaxSup is dashed and on top, so that both show.
_LINES = {
  'ce': {'linestyle': '-', 'linewidth': 1.8, 'zorder': 3},
  'ls': {'linestyle': '-', 'linewidth': 3.2, 'zorder': 2.5},
  'maxsup': {'linestyle': (0, (3, 2)), 'linewidth': 1.6, 'zorder': 4},
}
_MARKERS = {
  'ce': {'marker': 's', 'markersize': 8, 'fillstyle': 'none'},
  'ls': {'marker': 'o', 'markersize': 8, 'fillstyle': 'none'},
  'maxsup': {'marker': 'x', 'markersize': 6},
}
_GRAY = '#7A7A7A'
_COLLAPSED = '#ECECEC'


def files(
  problem: unconstrained.Problem,
  solutions: Sequence[unconstrained.Solution],
  paths: Sequence[unconstrained.Trajectory],
) -> dict[str, bytes]:
  """All three figures, as PNG and SVG, by the names of the files."""
  found = {}
  for name, figure in (
    ('closed_form', closed_form_figure(problem, solutions)),
    ('trajectories', trajectories_figure(paths)),
    ('condition', condition_figure(problem)),
  ):
    for kind in ('png', 'svg'):
      content = io.BytesIO()
      # Without the date an SVG is the same for the same numbers.
      metadata = {'Date': None} if kind == 'svg' else None
      figure.savefig(content, format=kind, dpi=150, metadata=metadata)
      found[f'{name}.{kind}'] = content.getvalue()
  return found


def closed_form_figure(
  problem: unconstrained.Problem,
  solutions: Sequence[unconstrained.Solution] = (),
) -> Figure:
  """Margin, softmax and norms of the minimiser over alpha.

  Args:
    problem: gives all but the objective and alpha.
    solutions: of the solver, to lay over the closed form.

  Returns:
    The figure. Alphas above 1 are not in it.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(num_classes=4, per_class=3, dim=6)
    >>> len(closed_form_figure(problem).axes)
    3
  """
  figure = _figure((11.5, 4.6))
  axes = figure.subplots(1, 3)
  alphas = np.linspace(0, 1, 401)
  best = [unconstrained.minimizer(_with(problem, a)) for a in alphas]
  panels = (
    (
      'Logits',
      'difference of logits',
      {'margin': r'of the class minus another, $\beta$'},
    ),
    (
      'Softmax',
      'probability',
      {
        'probability': 'of the class, $p$',
        'other_probability': 'of each other class, $q$',
      },
    ),
    (
      'Weights and features',
      'Euclidean norm',
      {
        'weight_norm': 'of a row of the weights',
        'feature_norm': "of an example's features",
      },
    ),
  )
  for ax, (title, unit, names) in zip(axes, panels):
    for (name, label), style in zip(names.items(), ('-', (0, (1, 1.2)))):
      line = [getattr(b, name) for b in best]
      ax.plot(alphas, line, ls=style, color=_GRAY, lw=2.2, label=label)
      for solution in solutions:
        _point(ax, solution.problem, _found(solution)[name])
    _shade_collapsed(ax, problem)
    ax.set(title=title, ylabel=unit, xlabel=r'strength $\alpha$')
    ax.set(xlim=(-0.02, 1), ylim=(0, None))
    ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.2), frameon=False)
  found = {s.problem.objective for s in solutions}
  handles = [
    Line2D([], [], color=_GRAY, lw=2.2, label='closed form'),
    *[
      _handle(o, f'{NAMES[o]}, found by L-BFGS', ls='', **_MARKERS[o])
      for o in NAMES
      if o in found
    ],
    Patch(color=_COLLAPSED, label='W = H = 0'),
  ]
  _finish(figure, 'Minimiser of CE, LS and MaxSup', problem, handles)
  return figure


def trajectories_figure(
  trajectories: Sequence[unconstrained.Trajectory],
) -> Figure:
  """NC1, NC2 and NC3 along gradient descent, and NC2 at equal NC1.

  A row for each alpha other than 0, with CE in all of them.

  Args:
    trajectories: of problems that differ in objective and alpha; several of one
      problem are its seeds. They share the recorded steps.

  Returns:
    The figure: lines are medians over the seeds, bands go from the smallest to
    the largest.

  Raises:
    UsageError: if there are none, if they differ in more, or if there is one
      example a class.
  """
  groups = _by_problem(trajectories)
  problem = trajectories[0].problem
  alphas = sorted({a for _, a in groups if a}) or [0.0]
  seeds = max(map(len, groups.values()))
  figure = _figure((14, 1.6 + 3.1 * len(alphas)))
  axes = figure.subplots(
    len(alphas), 4, squeeze=False, sharex='col', sharey='col'
  )
  steps = trajectories[0].steps
  shown = _thinned(len(steps))
  for row, alpha in zip(axes, alphas):
    for (objective, own), paths in groups.items():
      if own not in (0.0, alpha):
        continue
      for ax, metric in zip(row, ('nc1', 'nc2', 'nc3')):
        values = np.array([getattr(p, metric) for p in paths])
        _band(ax, steps[shown], values[:, shown], objective)
      levels, values = _nc2_at_nc1(paths)
      _band(row[3], levels, values, objective)
    for ax, title in zip(
      row,
      (
        'NC1, variability within classes',
        'NC2, distance from a simplex',
        'NC3, weights against class means',
        'NC2 where NC1 is first reached',
      ),
    ):
      ax.set_yscale('log')
      if ax in axes[0]:
        ax.set_title(title)
      ax.grid(True, color='#E0E0E0', lw=0.6)
    for ax in row[:3]:
      ax.set_xlim(steps[0], steps[-1])
    row[0].set_ylabel(
      (rf'$\alpha = {alpha:g}$' + '\n' if alpha else '') + 'NC1'
    )
    for ax, name in zip(row[1:], ('NC2', 'NC3', 'NC2')):
      ax.set_ylabel(name)
  for ax in axes[-1, :3]:
    ax.set_xlabel('step of gradient descent')
  axes[-1, 3].set_xscale('log')
  axes[-1, 3].invert_xaxis()
  axes[-1, 3].set_xlabel('NC1 (falls to the right)')
  objectives = {o for o, _ in groups}
  handles = [
    _handle(o, NAMES[o], ls=_LINES[o]['linestyle'], lw=_LINES[o]['linewidth'])
    for o in NAMES
    if o in objectives
  ]
  title = 'Collapse along gradient descent'
  first = trajectories[0]
  note = (
    f'learning rate {first.learning_rate:g}, start of standard deviation '
    f'{first.scale:.3g}, '
    + (f'median and range of {seeds} seeds' if seeds > 1 else 'one seed')
    + '; NC1 with 1/K, NC3 not squared'
  )
  _finish(figure, title, problem, handles, note)
  return figure


def condition_figure(problem: unconstrained.Problem) -> Figure:
  """The condition numbers (a) to (d) at the minimiser over alpha.

  Args:
    problem: gives all but the objective and alpha.

  Returns:
    The figure.

  Raises:
    UsageError: if the minimiser is 0 for every alpha.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(num_classes=4, per_class=3, dim=6)
    >>> len(condition_figure(problem).axes)
    4
  """
  if problem.epsilon >= 1:
    raise UsageError(
      f'epsilon is {problem.epsilon:.6g}, so the minimiser is 0 for every '
      'alpha; condition numbers need epsilon below 1'
    )
  figure = _figure((13.5, 4.4))
  axes = figure.subplots(1, 4)
  # Up to the collapse, and not onto it.
  alphas = np.linspace(0, 1, 400, endpoint=False) * (1 - problem.epsilon)
  numbers = [unconstrained.condition_numbers(_with(problem, a)) for a in alphas]
  for ax, (name, title) in zip(
    axes,
    {
      'data': '(a) data term alone,\nnon-zero eigenvalues',
      'block': '(b) with penalties, W alone,\nall directions',
      'curved': '(c) with penalties, W alone,\nwhere the data curves',
      'joint': '(d) with penalties, W, H and b,\npositive eigenvalues',
    }.items(),
  ):
    line = [getattr(n, name) for n in numbers]
    for objective in ('ls', 'maxsup'):
      ax.plot(alphas, line, color=COLORS[objective], **_LINES[objective])
    ax.axhline(line[0], color=COLORS['ce'], lw=0.8, ls=':')
    ax.plot(0, line[0], color=COLORS['ce'], clip_on=False, **_MARKERS['ce'])
    _shade_collapsed(ax, problem)
    ax.set(title=title, xlabel=r'strength $\alpha$', xlim=(-0.02, 1))
    ax.set_ylim(bottom=0, top=1.08 * max(line))
  # It has a pole at the collapse.
  axes[3].set(yscale='log', ylim=(0.7 * min(line), None))
  axes[3].set_ylabel('on a logarithmic scale')
  axes[3].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes[3].yaxis.set_major_formatter('{x:g}')
  axes[3].yaxis.set_minor_locator(NullLocator())
  axes[0].set_ylabel('largest / smallest eigenvalue')
  handles = [
    _handle('ce', 'CE', **_MARKERS['ce'], ls=':', lw=0.8),
    *[
      _handle(o, NAMES[o], ls=_LINES[o]['linestyle'], lw=_LINES[o]['linewidth'])
      for o in ('ls', 'maxsup')
    ],
    Patch(color=_COLLAPSED, label='W = H = 0'),
  ]
  note = 'only (a) is below the value of CE (dotted) for every problem'
  _finish(figure, 'Condition number at the minimiser', problem, handles, note)
  return figure


def _figure(size):
  return Figure(figsize=size, layout='constrained')


def _with(problem, alpha):
  return dataclasses.replace(problem, objective='ls', alpha=float(alpha))


def _handle(objective, label, **style):
  return Line2D([], [], color=COLORS[objective], label=label, **style)


def _finish(figure, title, problem, handles, note=''):
  """Says what is shown, and puts the legend where no data is."""
  setting = (
    f'Unconstrained features: K = {problem.num_classes} classes, '
    f'n = {problem.per_class} examples each, D = {problem.dim}, '
    rf'$\lambda_W$ = {problem.lambda_w:g}, $\lambda_H$ = {problem.lambda_h:g}, '
    rf'$\lambda_b$ = {problem.lambda_b:g}'
  )
  figure.suptitle('\n'.join(filter(None, (title, setting, note))), fontsize=12)
  figure.legend(
    handles=handles,
    loc='outside lower center',
    ncols=len(handles),
    frameon=False,
  )
  for ax in figure.axes:
    ax.spines[['top', 'right']].set_visible(False)


def _shade_collapsed(ax, problem):
  ax.axvspan(max(0, 1 - problem.epsilon), 1, color=_COLLAPSED, zorder=0, lw=0)


def _point(ax, problem, value):
  objective = problem.objective
  if problem.alpha <= 1:
    ax.plot(
      problem.alpha,
      value,
      color=COLORS[objective],
      markeredgewidth=1.6,
      clip_on=False,
      zorder=_LINES[objective]['zorder'],
      **_MARKERS[objective],
    )


def _thinned(count):
  """Indices of the points to draw, denser at the start: enough for the eye."""
  even = np.linspace(0, count - 1, 200).round().astype(np.int64)
  if count < 3:
    return even
  return np.union1d(even, unconstrained.log_spaced_steps(count - 1))


def _band(ax, x, values, objective):
  """The median of the rows, and their range."""
  color = COLORS[objective]
  # Levels that some seed never reaches are left out.
  x, values = x[(known := ~np.isnan(values).any(0))], values[:, known]
  ax.plot(x, np.median(values, 0), color=color, **_LINES[objective])
  if len(values) > 1:
    ax.fill_between(
      x, values.min(0), values.max(0), color=color, alpha=0.15, lw=0
    )


def _nc2_at_nc1(paths):
  """NC2 of every path where its NC1 is first below each of some levels."""
  lowest = min(np.nanmin(p.nc1) for p in paths)
  highest = min(p.nc1[0] for p in paths)
  levels = np.geomspace(highest, max(lowest, 1e-8), 200)
  return levels, np.array(
    [
      [
        unconstrained.metric_at_threshold(p, 'nc2', 'nc1', level)
        for level in levels
      ]
      for p in paths
    ]
  )


def _by_problem(
  trajectories: Sequence[unconstrained.Trajectory],
) -> dict[tuple[str, float], list[unconstrained.Trajectory]]:
  """Trajectories by (objective, alpha), checked to be comparable."""
  if not trajectories:
    raise UsageError('there are no trajectories; expected at least one')
  groups: dict[tuple[str, float], list[unconstrained.Trajectory]] = {}
  first = trajectories[0]
  if first.problem.per_class == 1:
    raise UsageError('NC1 is 0 with one example a class; expected at least 2')
  for path in trajectories:
    if _with(path.problem, 0) != _with(first.problem, 0):
      raise UsageError(
        'the problems of the trajectories differ in more than objective and '
        f'alpha: {first.problem} and {path.problem}'
      )
    if (path.learning_rate, path.scale) != (first.learning_rate, first.scale):
      raise UsageError('the trajectories differ in learning rate or scale')
    if not np.array_equal(path.steps, first.steps):
      raise UsageError('the trajectories recorded different steps')
    key = path.problem.objective, path.problem.alpha
    groups.setdefault(key, []).append(path)
  return groups


def _found(solution):
  """What the solver found, in the terms of the closed form."""
  K, n = solution.problem.num_classes, solution.problem.per_class
  logits = solution.features @ solution.weights.T + solution.bias
  exponentials = np.exp(logits - logits.max(1, keepdims=True))
  softmax = exponentials / exponentials.sum(1, keepdims=True)
  own = np.repeat(np.eye(K, dtype=bool), n, axis=0)
  return {
    'margin': logits[own].mean() - logits[~own].mean(),
    'probability': softmax[own].mean(),
    'other_probability': softmax[~own].mean(),
    'weight_norm': np.linalg.norm(solution.weights, axis=1).mean(),
    'feature_norm': np.linalg.norm(solution.features, axis=1).mean(),
  }
