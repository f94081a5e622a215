import dataclasses

import numpy as np
import pytest

from maxsup_jax.diagnostics import unconstrained
from maxsup_jax.errors import UsageError
from maxsup_jax.reports import unconstrained as figures

PROBLEM = unconstrained.Problem(4, 3, 6, lambda_w=5e-3, lambda_h=2e-3)


def of(objective, alpha):
  return dataclasses.replace(PROBLEM, objective=objective, alpha=alpha)


def lines(ax, color=None):
  return [x for x in ax.lines if color is None or x.get_color() == color]


def written(figure):
  """All words in a figure."""
  texts = [figure.get_suptitle()]
  for ax in figure.axes:
    texts += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel()]
  for legend in figure.legends:
    texts += [t.get_text() for t in legend.get_texts()]
  return '\n'.join(texts)


def test_the_closed_form():
  solutions = [
    unconstrained.solve(of(*o)) for o in (('ce', 0.0), ('maxsup', 0.25))
  ]
  figure = figures.closed_form_figure(PROBLEM, solutions)
  panels = (('margin',), ('probability', 'other_probability'))
  panels += (('weight_norm', 'feature_norm'),)
  for ax, names in zip(figure.axes, panels):
    curves = [x for x in ax.lines if len(x.get_xdata()) > 1]
    assert len(curves) == len(names)
    for curve, name in zip(curves, names):
      for alpha in (0.0, 0.25, 0.975):
        i = np.argmin(abs(curve.get_xdata() - alpha))
        best = unconstrained.minimizer(of('ls', alpha))
        assert curve.get_ydata()[i] == pytest.approx(getattr(best, name))
    for color, alpha in ((figures.COLORS['ce'], 0.0), ('#0072B2', 0.25)):
      points = lines(ax, color)
      assert [x.get_xdata()[0] for x in points] == [alpha] * len(names)
      best = unconstrained.minimizer(of('ls', alpha))
      for point, name in zip(points, names):
        assert point.get_ydata()[0] == pytest.approx(
          getattr(best, name), abs=1e-5
        )
  words = written(figure)
  for word in ('K = 4', 'n = 3', 'D = 6', 'CE, found', 'MaxSup, found'):
    assert word in words
  assert 'LS, found' not in words


@pytest.fixture(scope='module')
def paths():
  return [
    unconstrained.gradient_descent(of(*o), steps=150, seed=seed)
    for o in (('ce', 0.0), ('ls', 0.1), ('maxsup', 0.1), ('ls', 0.4))
    for seed in (0, 1, 2)
  ]


def test_trajectories(paths):
  figure = figures.trajectories_figure(paths)
  assert len(figure.axes) == 8
  for i, metric in enumerate(('nc1', 'nc2', 'nc3')):
    for row, count in ((0, 3), (1, 2)):
      ax = figure.axes[4 * row + i]
      assert len(ax.lines) == len(ax.collections) == count
      assert ax.get_yscale() == 'log'
    (ce,) = lines(figure.axes[i], figures.COLORS['ce'])
    median = np.median([getattr(p, metric) for p in paths[:3]], axis=0)
    np.testing.assert_array_equal(
      ce.get_ydata(), median[ce.get_xdata().astype(int)]
    )
    assert ce.get_xdata()[[0, -1]].tolist() == [0, 150]
  (ls,) = lines(figure.axes[3], figures.COLORS['ls'])
  level = ls.get_xdata()[100]
  expected = [
    unconstrained.metric_at_threshold(p, 'nc2', 'nc1', level)
    for p in paths[3:6]
  ]
  assert ls.get_ydata()[100] == np.median(expected)
  words = written(figure)
  for word in ('3 seeds', 'learning rate 1', 'NC1 with 1/K', '0.4', 'MaxSup'):
    assert word in words


def test_trajectories_of_one_seed_or_step(tmp_path, paths):
  figure = figures.trajectories_figure(paths[:1])
  assert len(figure.axes) == 4
  assert 'one seed' in written(figure)
  assert not figure.axes[0].collections
  path = unconstrained.gradient_descent(PROBLEM, steps=1)
  figures.trajectories_figure([path]).savefig(tmp_path / 'figure.png')


def test_trajectories_have_to_compare(paths):
  path = paths[0]
  for change in (
    {'problem': unconstrained.Problem(3, 2, 4)},
    {'steps': path.steps + 1},
    {'learning_rate': 2.0},
  ):
    other = dataclasses.replace(path, **change)
    with pytest.raises(UsageError, match='the trajectories differ in more'):
      figures.trajectories_figure([path, other])


def test_condition_numbers():
  figure = figures.condition_figure(PROBLEM)
  for ax, name in zip(figure.axes, ('data', 'block', 'curved', 'joint')):
    (ls,) = lines(ax, figures.COLORS['ls'])
    (maxsup,) = lines(ax, figures.COLORS['maxsup'])
    np.testing.assert_array_equal(ls.get_ydata(), maxsup.get_ydata())
    for i in (0, 57, 399):
      alpha = float(ls.get_xdata()[i])
      kappa = unconstrained.condition_numbers(of('maxsup', alpha))
      assert ls.get_ydata()[i] == pytest.approx(getattr(kappa, name))
    assert ls.get_xdata()[-1] < 1 - PROBLEM.epsilon
  slope = np.diff(lines(figure.axes[0], figures.COLORS['ls'])[0].get_ydata())
  step = (1 - PROBLEM.epsilon) / 400
  np.testing.assert_allclose(slope, -3 * step)
  assert 'only (a)' in written(figure)


def test_ls_and_maxsup_are_told_apart_by_more_than_colour():
  for style, key in (
    (figures._LINES, 'linestyle'),
    (figures._MARKERS, 'marker'),
  ):
    assert style['ls'][key] != style['maxsup'][key]
  assert len(set(figures.COLORS.values())) == 3
