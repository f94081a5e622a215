"""Figures of the unconstrained feature model."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from maxsup_jax._errors import UsageError
from maxsup_jax.diagnostics import unconstrained

# Okabe and Ito's colours, which most colour-blind readers can tell apart.
COLORS = {'ce': '#000000', 'ls': '#E69F00', 'maxsup': '#0072B2'}
NAMES = {'ce': 'CE', 'ls': 'LS', 'maxsup': 'MaxSup'}
# LS and MaxSup often coincide: MaxSup is dashed, on top, and both show.
_LINES = {
  'ce': {'linestyle': '-', 'linewidth': 2.0, 'zorder': 3},
  'ls': {'linestyle': '-', 'linewidth': 3.0, 'zorder': 2},
  'maxsup': {'linestyle': (0, (4, 2)), 'linewidth': 1.6, 'zorder': 4},
}
_MARKERS = {'ce': 's', 'ls': 'o', 'maxsup': 'x'}
_TITLES = {
  'nc1': 'NC1, within-class variability',
  'nc2': 'NC2, distance from the simplex',
  'nc3': 'NC3, weights against class means',
}


def closed_form_figure(
  problem: unconstrained.Problem,
  solutions: Sequence[unconstrained.Solution] = (),
) -> Figure:
  """Margin, probability and norms of the minimiser over alpha.

  Args:
    problem: gives all but objective and alpha.
    solutions: of the solver, to lay over the closed form; any objectives.

  Returns:
    The figure.
  """
  figure, axes = _figure(1, 3, (11, 3.9))
  alphas = np.linspace(0, 1, 401)
  best = [
    unconstrained.minimizer(_with(problem, 'ls', float(a))) for a in alphas
  ]
  panels = (
    ('Margin of the logits', r'$\beta$ (logit units)', ('margin',)),
    (
      'Softmax of the class and of another',
      'probability',
      ('probability', 'other_probability'),
    ),
    ('Norms', 'Euclidean norm', ('weight_norm', 'feature_norm')),
  )
  labels = {
    'margin': None,
    'probability': 'of the class, $p$',
    'other_probability': 'of each other class, $q$',
    'weight_norm': 'a row of the weights',
    'feature_norm': 'features of an example',
  }
  for ax, (title, unit, names) in zip(axes.flat, panels):
    for name, style in zip(names, ('-', ':')):
      line = [getattr(b, name) for b in best]
      ax.plot(alphas, line, style, color='#7A7A7A', lw=2, label=labels[name])
      for solution in solutions:
        objective = solution.problem.objective
        ax.plot(
          solution.problem.alpha,
          _found(solution)[name],
          _MARKERS[objective],
          color=COLORS[objective],
          ms={'ce': 8, 'ls': 8, 'maxsup': 6}[objective],
          mew=1.6,
          fillstyle='none',
          zorder=_LINES[objective]['zorder'],
        )
    collapse = 1 - problem.epsilon
    if collapse > 0:
      ax.axvspan(collapse, 1, color='#EEEEEE', zorder=0, lw=0)
    ax.set(title=title, ylabel=unit, xlabel=r'$\alpha$', xlim=(0, 1))
    ax.set_ylim(bottom=0)
  handles = [
    Line2D([], [], color='#7A7A7A', lw=2, label='closed form'),
    Line2D([], [], color='#7A7A7A', lw=2, ls=':', label='second quantity'),
  ]
  return figure


def _found(solution: unconstrained.Solution) -> dict[str, float]:
  """What the solver found, in the terms of the closed form."""
  K = solution.problem.num_classes
  labels = np.repeat(np.arange(K), solution.problem.per_class)
  logits = solution.features @ solution.weights.T + solution.bias
  exponentials = np.exp(logits - logits.max(1, keepdims=True))
  softmax = exponentials / exponentials.sum(1, keepdims=True)
  rows = np.arange(len(labels))
  others = np.ones_like(logits, bool)
  others[rows, labels] = False
  target = logits[rows, labels]
  return {
    'margin': float((target[:, None] - logits)[others].mean()),
    'probability': float(softmax[rows, labels].mean()),
    'other_probability': float(softmax[others].mean()),
    'weight_norm': float(np.linalg.norm(solution.weights, axis=1).mean()),
    'feature_norm': float(np.linalg.norm(solution.features, axis=1).mean()),
  }
