"""Figures of the unconstrained feature model."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from maxsup_jax.diagnostics import unconstrained
from maxsup_jax.diagnostics.unconstrained import Problem, Solution, Trajectory
from maxsup_jax.errors import UsageError

# Of Okabe and Ito: most colour-blind readers can tell them apart.
COLORS = {'ce': '#000000', 'ls': '#E69F00', 'maxsup': '#0072B2'}
NAMES = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}
# LS and MaxSup often coincide: MaxSup is dashed and on top, so that both show.
_LINES: dict[str, dict[str, Any]] = {
  'ce': {'linestyle': '-', 'linewidth': 1.8, 'zorder': 3},
  'ls': {'linestyle': '-', 'linewidth': 3.2, 'zorder': 2.5},
  'maxsup': {'linestyle': (0, (3, 2)), 'linewidth': 1.6, 'zorder': 4},
}
_MARKERS: dict[str, dict[str, Any]] = {
  'ce': {'marker': 's', 'markersize': 8, 'fillstyle': 'none'},
  'ls': {'marker': 'o', 'markersize': 8, 'fillstyle': 'none'},
  'maxsup': {'marker': 'x', 'markersize': 6},
}
_LABELS = {
  'margin': r'of the class minus another, $\beta$',
  'probability': 'of the class, $p$',
  'other_probability': 'of each other class, $q$',
  'weight_norm': 'of a row of the weights',
  'feature_norm': "of an example's features",
}
_GRAY, _COLLAPSED = '#7A7A7A', '#ECECEC'


def files(
  problem: Problem,
  solutions: Sequence[Solution],
  paths: Sequence[Trajectory],
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
  problem: Problem, solutions: Sequence[Solution] = ()
) -> Figure:
  """Margin, softmax and norms of the minimiser over alpha, up to 1.

  Args:
    problem: gives all but the objective and alpha.
    solutions: of the solver, to lay over the closed form.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(num_classes=4, per_class=3, dim=6)
    >>> len(closed_form_figure(problem).axes)
    3
  """
  figure = Figure(figsize=(11.5, 4.6), layout='constrained')
  axes = figure.subplots(1, 3)
  alphas = np.linspace(0, 1, 401)
  best = [unconstrained.minimizer(_with(problem, a)) for a in alphas]
  panels = (
    ('Logits', 'difference of logits', ('margin',)),
    ('Softmax', 'probability', ('probability', 'other_probability')),
    ('Weights and features', 'Euclidean norm', ('weight_norm', 'feature_norm')),
  )
  found = [(s.problem, _found(s)) for s in solutions if s.problem.alpha <= 1]
  for ax, (title, unit, names) in zip(axes, panels):
    for name, dashes in zip(names, ('-', (0, (1, 1.2)))):
      line, label = [getattr(b, name) for b in best], _LABELS[name]
      ax.plot(alphas, line, ls=dashes, color=_GRAY, lw=2.2, label=label)
      for solved, values in found:
        look = _MARKERS[solved.objective] | {
          'color': COLORS[solved.objective],
          'zorder': _LINES[solved.objective]['zorder'],
        }
        ax.plot(
          solved.alpha, values[name], markeredgewidth=1.6, clip_on=False, **look
        )
    _shade_collapsed(ax, problem)
    ax.set(title=title, ylabel=unit, xlabel=r'strength $\alpha$')
    ax.set(xlim=(-0.02, 1), ylim=(0, None))
    ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.2), frameon=False)
  solved_for = {s.problem.objective for s in solutions}
  handles = [
    Line2D([], [], color=_GRAY, lw=2.2, label='closed form'),
    *[
      _handle(o, f'{NAMES[o]}, found by L-BFGS', ls='', **_MARKERS[o])
      for o in NAMES
      if o in solved_for
    ],
    Patch(color=_COLLAPSED, label='W = H = 0'),
  ]
  _finish(figure, 'Minimiser of CE, LS and MaxSup', problem, handles)
  return figure


def trajectories_figure(trajectories: Sequence[Trajectory]) -> Figure:
  """NC1, NC2 and NC3 along gradient descent, and NC2 at equal NC1.

  A row for each alpha other than 0, with CE in all of them; lines are medians
  over the seeds, bands go from the smallest to the largest.

  Args:
    trajectories: of problems that differ in objective and alpha; several of one
      problem are its seeds. They share the recorded steps.

  Raises:
    UsageError: if they differ in more.
  """
  groups: dict[tuple[str, float], list[Trajectory]] = {}
  first = trajectories[0]
  for path in trajectories:
    key = path.problem.objective, path.problem.alpha
    groups.setdefault(key, []).append(path)
    if _shared(path) != _shared(first):
      raise UsageError(
        'the trajectories differ in more than objective, alpha and seed: '
        f'{_shared(first)} and {_shared(path)}'
      )
  alphas = sorted({a for _, a in groups if a}) or [0.0]
  seeds = max(map(len, groups.values()))
  size = 14, 1.6 + 3.1 * len(alphas)
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.subplots(
    len(alphas), 4, squeeze=False, sharex='col', sharey='col'
  )
  steps = first.steps
  shown = _thinned(len(steps))
  for row, alpha in zip(axes, alphas):
    for (objective, own), paths in groups.items():
      if own not in (0.0, alpha):
        continue
      for ax, metric in zip(row, ('nc1', 'nc2', 'nc3')):
        values = np.array([getattr(p, metric) for p in paths])
        _band(ax, steps[shown], values[:, shown], objective)
      _band(row[3], *_nc2_at_nc1(paths), objective)
    for ax, title, label in zip(
      row,
      (
        'NC1, variability within classes',
        'NC2, distance from a simplex',
        'NC3, weights against class means',
        'NC2 where NC1 is first reached',
      ),
      ('NC1', 'NC2', 'NC3', 'NC2'),
    ):
      ax.set_yscale('log')
      if ax in axes[0]:
        ax.set_title(title)
      ax.grid(True, color='#E0E0E0', lw=0.6)
      ax.set_ylabel(label)
    for ax in row[:3]:
      ax.set_xlim(steps[0], steps[-1])
    if alpha:
      row[0].set_ylabel(rf'$\alpha = {alpha:g}$' + '\nNC1')
  for ax in axes[-1, :3]:
    ax.set_xlabel('step of gradient descent')
  axes[-1, 3].set_xscale('log')
  axes[-1, 3].invert_xaxis()
  axes[-1, 3].set_xlabel('NC1 (falls to the right)')
  objectives = {o for o, _ in groups}
  handles = [_line_handle(o) for o in NAMES if o in objectives]
  over = f'median and range of {seeds} seeds' if seeds > 1 else 'one seed'
  note = (
    f'learning rate {first.learning_rate:g}, start of standard deviation '
    f'{first.scale:.3g}, {over}; NC1 with 1/K, NC3 not squared'
  )
  title = 'Collapse along gradient descent'
  _finish(figure, title, first.problem, handles, note)
  return figure


def condition_figure(problem: Problem) -> Figure:
  """The condition numbers (a) to (d) at the minimiser over alpha.

  Args:
    problem: gives all but the objective and alpha; its epsilon is below 1.

  Examples:
    >>> from maxsup_jax.diagnostics import unconstrained
    >>> problem = unconstrained.Problem(num_classes=4, per_class=3, dim=6)
    >>> len(condition_figure(problem).axes)
    4
  """
  figure = Figure(figsize=(13.5, 4.4), layout='constrained')
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
    *map(_line_handle, ('ls', 'maxsup')),
    Patch(color=_COLLAPSED, label='W = H = 0'),
  ]
  note = 'only (a) is below the value of CE (dotted) for every problem'
  _finish(figure, 'Condition number at the minimiser', problem, handles, note)
  return figure


def _with(problem: Problem, alpha: float) -> Problem:
  return dataclasses.replace(problem, objective='ls', alpha=float(alpha))


def _shared(path: Trajectory) -> tuple[Any, ...]:
  """What the trajectories of a figure have in common."""
  problem, steps = _with(path.problem, 0), path.steps.tolist()
  return problem, path.learning_rate, path.scale, steps


def _handle(objective: str, label: str, **look: Any) -> Line2D:
  return Line2D([], [], color=COLORS[objective], label=label, **look)


def _line_handle(objective: str) -> Line2D:
  look = {n: _LINES[objective][n] for n in ('linestyle', 'linewidth')}
  return _handle(objective, NAMES[objective], **look)


def _finish(
  figure: Figure, title: str, problem: Problem, handles: Any, note: str = ''
) -> None:
  """Says what is shown, and puts the legend where no data is."""
  setting = (
    f'Unconstrained features: K = {problem.num_classes} classes, '
    f'n = {problem.per_class} examples each, D = {problem.dim}, '
    rf'$\lambda_W$ = {problem.lambda_w:g}, $\lambda_H$ = {problem.lambda_h:g}, '
    rf'$\lambda_b$ = {problem.lambda_b:g}'
  )
  figure.suptitle('\n'.join(filter(None, (title, setting, note))), fontsize=12)
  columns = len(handles)
  figure.legend(
    handles=handles, loc='outside lower center', ncols=columns, frameon=False
  )
  for ax in figure.axes:
    ax.spines[['top', 'right']].set_visible(False)


def _shade_collapsed(ax: Axes, problem: Problem) -> None:
  ax.axvspan(max(0, 1 - problem.epsilon), 1, color=_COLLAPSED, zorder=0, lw=0)


def _thinned(count: int) -> np.ndarray:
  """Indices of the points to draw, denser at the start: enough for the eye."""
  even = np.linspace(0, count - 1, 200).round().astype(np.int64)
  if count < 3:
    return even
  return np.union1d(even, unconstrained.log_spaced_steps(count - 1))


def _band(ax: Axes, x: np.ndarray, values: np.ndarray, objective: str) -> None:
  """The median of the rows, and their range."""
  color = COLORS[objective]
  # Levels that some seed never reaches are left out.
  x, values = x[(known := ~np.isnan(values).any(0))], values[:, known]
  ax.plot(x, np.median(values, 0), color=color, **_LINES[objective])
  if len(values) > 1:
    low, high = values.min(0), values.max(0)
    ax.fill_between(x, low, high, color=color, alpha=0.15, lw=0)


def _nc2_at_nc1(paths: Sequence[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
  """NC2 of every path where its NC1 is first below each of some levels."""
  lowest = min(np.nanmin(p.nc1) for p in paths)
  highest = min(p.nc1[0] for p in paths)
  levels = np.geomspace(highest, max(lowest, 1e-8), 200)
  at = unconstrained.metric_at_threshold
  return levels, np.array(
    [[at(p, 'nc2', 'nc1', level) for level in levels] for p in paths]
  )


def _found(solution: Solution) -> dict[str, float]:
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
