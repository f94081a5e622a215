"""The section on the logits: their densities, and the pressure on the top."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maxsup_jax.diagnostics import representation, selective
from maxsup_jax.errors import UsageError
from maxsup_jax.reports import _style, blocks, measured
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'logits', 'Logits and gradients'
_NEAR_ZERO = (0.001, 0.01, 0.1)


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section."""
  data, columns = describe(models), measured.methods(models)
  notes, densities, numbers = [], {}, {}
  for m in models:
    numbers[m.name] = _numbers(m)
    try:
      densities[m.name] = representation.logit_density(m.outputs.logits)
    except UsageError as e:
      notes.append(blocks.Note(f'{m.name} has no density of logits: {e}.'))
    try:
      stability = representation.stability(m.outputs.logits, m.outputs.labels)
      numbers[m.name]['stability'] = stability.value
    except UsageError as e:
      notes.append(blocks.Note(f'{m.name} has no stability: {e}.'))
  profile = selective.max_logit_given_confidence
  outputs = [m.outputs for m in models]
  profiles = {o.name: profile(o.logits, o.labels) for o in outputs}
  density_csv, profile_csv = blocks.Curves(), blocks.Curves()
  for name, (grid, density) in densities.items():
    density_csv.add(len(grid), model=name, logit=grid, density=density)
  for name, p in profiles.items():
    windows = {
      f'{group}_{what}': getattr(getattr(p, group), what)
      for group in ('correct', 'wrong')
      for what in ('mean', 'std', 'count')
    }
    at = p.confidence
    profile_csv.add(len(at), model=name, confidence=at, **windows)
  drawn: list[blocks.Block] = []
  if densities:
    caption = (
      f"{data}. Kernel density estimate of pooled logits, with Scott's "
      'bandwidth; the range is cut where less than 0.1% of the logits lie '
      'beyond. Seeds of a method are lines of one colour.'
    )
    widths = [
      f'{name} spreads by {blocks.number(float(np.mean(stds)))}'
      for name, ms in columns.items()
      if (stds := [s for m in ms if (s := numbers[m.name].get('std_logit'))])
    ]
    drawn.append(
      blocks.Figure(
        'logit_density',
        'All logits of all examples',
        _densities(columns, densities),
        f'Densities of the logits. Standard deviations: {"; ".join(widths)}.',
        caption,
      )
    )
  K = models[0].outputs.num_classes
  return blocks.Section(
    NAME,
    TITLE,
    [
      blocks.Figure(
        'max_logit',
        'Top logit at equal confidence',
        _profiles(columns, profiles),
        _seen(columns, profiles),
        f'{data}. Mean and standard deviation of the top logit of correct and '
        'of wrong predictions in a window of width 0.05 over the maximum '
        'softmax probability; nothing is drawn where the window holds fewer '
        'than two examples. Of several seeds, lines and deviations are means. '
        'Where label smoothing presses harder on what is right, correct '
        'predictions lie below wrong ones.',
      ),
      blocks.Figure(
        'suppression',
        'Pressure on the top logit, in theory',
        _pressure(K),
        'The gradient of label smoothing falls in a straight line with the '
        'probability of an error, to below 0; that of MaxSup is constant, '
        f'{1 - 1 / K:.3g}; that of calibrated soft targets is 0.',
        'Computed, not measured: expected gradient '
        'of the regularizer with respect to the top logit, over α, for '
        f'K = {K:,} classes, as a function of the '
        'probability that the prediction is wrong. Positive values push it '
        'down. LS: 1 − P(error) − 1/K. MaxSup: 1 − 1/K, whatever the '
        'probability. Soft targets: 1 − P(error) − q, where q is what the soft '
        'target gives the top class; calibrated ones have no pressure.',
      ),
      *drawn,
      _table(columns, numbers, data),
      *notes,
    ],
    numbers,
    {'logit_density': density_csv.columns, 'max_logit': profile_csv.columns},
  )


def _mean_profile(
  models: list[Measured], profiles: Mapping[str, Any], group: str
) -> tuple[np.ndarray, np.ndarray]:
  """Mean and deviation over the seeds; NaN where one has too few examples."""
  windows = [getattr(profiles[m.name], group) for m in models]
  several = np.all([w.count > 1 for w in windows], 0)
  mean, std = (
    np.where(several, np.mean([getattr(w, k) for w in windows], 0), np.nan)
    for k in ('mean', 'std')
  )
  return mean, std


def _profiles(
  columns: Mapping[str, list[Measured]], profiles: Mapping[str, Any]
) -> Figure:
  names = blocks.short_names(list(columns))
  with _style.style():
    figure, axes = _style.panels(
      len(columns), height=2.6, sharex=True, sharey=True
    )
    for (name, models), ax in zip(columns.items(), axes):
      x = profiles[models[0].name].confidence
      for group, color, style in (
        ('correct', _style.CORRECT, '-'),
        ('wrong', _style.WRONG, '--'),
      ):
        mean, std = _mean_profile(models, profiles, group)
        ax.plot(x, mean, style, color=color, label=group)
        _style.band(ax, x, mean - std, mean + std, color, 0.18)
      ax.set(title=names[name])
    figure.supxlabel('maximum softmax probability', fontsize=9)
    figure.supylabel('top logit', fontsize=9)
    _style.legend(figure, *axes[0].get_legend_handles_labels())
  return figure


def _seen(
  columns: Mapping[str, list[Measured]], profiles: Mapping[str, Any]
) -> str:
  """The figure in words."""
  told = []
  for name, models in columns.items():
    right, wrong = (
      _mean_profile(models, profiles, group)[0]
      for group in ('correct', 'wrong')
    )
    both = np.isfinite(right - wrong)
    if both.any():
      above = float(np.mean(right[both] > wrong[both]))
      told.append(f'{name} has them higher at {above:.0%} of the confidences')
  return (
    'A panel for each model, with lines for correct and for wrong predictions. '
    f'Top logits of correct ones: {"; ".join(told) or "nothing to compare"}.'
  )


def _pressure(K: int) -> Figure:
  error = np.linspace(0, 1, 101)
  with _style.style():
    figure, (ax,) = _style.panels(1, height=2.7)
    # Not the colours of the models, which these lines are not about.
    for target, label, style, given in (
      ('ls', 'label smoothing', '-', {}),
      ('maxsup', 'MaxSup', '--', {}),
      ('soft', 'calibrated soft', ':', {'top_probability': 1 - error}),
    ):
      value = selective.expected_suppression(
        error, K, 1.0, target=target, **given
      )
      ax.plot(error, value, style, color=_style.QUIET, label=label)
    ax.set(xlabel='P(error)', ylabel='gradient on the top logit / α')
    ax.set_xlim(0, 1)
    _style.legend(figure, *ax.get_legend_handles_labels())
  return figure


def _densities(
  columns: Mapping[str, list[Measured]], densities: Mapping[str, Any]
) -> Figure:
  names = blocks.short_names(list(columns))
  with _style.style():
    figure, (ax,) = _style.panels(1, height=2.7)
    low, high, handles = [], [], dict[str, Any]()
    for i, (name, models) in enumerate(columns.items()):
      for grid, density in (
        densities[m.name] for m in models if m.name in densities
      ):
        (handles[names[name]],) = ax.plot(grid, density, **_style.line(i))
        _style.band(ax, grid, density, 0, _style.color(i), 0.12 / len(models))
        below = np.cumsum(density) / density.sum()
        low.append(grid[np.searchsorted(below, 0.0005)])
        high.append(grid[np.searchsorted(below, 0.9995)])
    ax.set(xlim=(min(low), max(high)), xlabel='logit', ylabel='density')
    ax.set_ylim(0)
    _style.legend(figure, list(handles.values()), list(handles))
  return figure


def _numbers(m: Measured) -> dict[str, float]:
  logits = m.outputs.logits
  record = {'mean_top_logit': float(logits.max(1).mean(dtype=np.float64))}
  if np.isneginf(logits.min()):
    return record  # the density's note says why
  record |= {
    'mean_logit': float(logits.mean(dtype=np.float64)),
    'std_logit': float(logits.std(dtype=np.float64)),
  }
  for threshold in _NEAR_ZERO:
    share = representation.near_zero_share(logits, threshold=threshold)
    record[f'near_zero_share_{threshold:g}'] = float(share.mean())
  return record


def _table(
  columns: Mapping[str, list[Measured]], numbers: Mapping[str, Any], data: str
) -> blocks.Table:
  titles: dict[str, Any] = {
    'mean_top_logit': 'mean top logit',
    'mean_logit': 'mean logit',
    'std_logit': 'standard deviation of the logits',
    **{
      f'near_zero_share_{t:g}': (f'logits within ±{t:g}', blocks.percent)
      for t in _NEAR_ZERO
    },
    'stability': 'stability (Shen et al.)',
  }
  return blocks.table(
    'Logits in numbers',
    {name: [numbers[m.name] for m in ms] for name, ms in columns.items()},
    titles,
    f'{data}. Logits within a threshold of zero: mean over the examples of the '
    'share of the classes. Stability: 1 minus the mean variance of the '
    'predicted distributions within a class; closer to 1 means that examples '
    'of a class look more alike to the classifier.',
  )
