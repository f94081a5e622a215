"""The section on the logits: their densities, and the pressure on the top."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from maxsup_jax.diagnostics import representation, selective
from maxsup_jax.errors import UsageError
from maxsup_jax.reports import _style, blocks
from maxsup_jax.reports.measured import Measured, Options, describe

NAME, TITLE = 'logits', 'Logits and gradients'
_NEAR_ZERO = (0.001, 0.01, 0.1)


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section."""
  data = describe(models)
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
      f'Densities of all logits of all examples. {data}. Kernel density '
      "estimate of pooled logits, with Scott's bandwidth; the range is cut "
      'where less than 0.1% of the logits lie beyond.'
    )
    figure = _densities(models, densities)
    drawn.append(blocks.Figure('logit_density', figure, caption))
  return blocks.Section(
    NAME,
    TITLE,
    [
      blocks.Figure(
        'max_logit',
        _profiles(models, profiles),
        'Top logit at equal confidence. '
        f'{data}. Mean and standard deviation of the top logit of correct and '
        'of wrong predictions in a window of width 0.05 over the maximum '
        'softmax probability; nothing is drawn where the window holds fewer '
        'than two examples. Where label smoothing presses harder on what is '
        'right, correct predictions lie below wrong ones.',
      ),
      blocks.Figure(
        'suppression',
        _pressure(models[0].outputs.num_classes),
        'Pressure on the top logit. Computed, not measured: expected gradient '
        'of the regularizer with respect to the top logit, over α, for '
        f'K = {models[0].outputs.num_classes:,} classes, as a function of the '
        'probability that the prediction is wrong. Positive values push it '
        'down. LS: 1 − P(error) − 1/K. MaxSup: 1 − 1/K, whatever the '
        'probability. Soft targets: 1 − P(error) − q, where q is what the soft '
        'target gives the top class; calibrated ones have no pressure.',
      ),
      *drawn,
      _table(numbers, data),
      *notes,
    ],
    numbers,
    {'logit_density': density_csv.columns, 'max_logit': profile_csv.columns},
  )


def _profiles(models: list[Measured], profiles: Mapping[str, Any]) -> Figure:
  names = blocks.short_names([m.name for m in models])
  with _style.style():
    figure, axes = _style.panels(len(models), height=2.6, sharex=True)
    for m, ax in zip(models, axes):
      p = profiles[m.name]
      for group, color, style in (
        ('correct', _style.CORRECT, '-'),
        ('wrong', _style.WRONG, '--'),
      ):
        windows = getattr(p, group)
        several = windows.count > 1
        mean = np.where(several, windows.mean, np.nan)
        std = np.where(several, windows.std, np.nan)
        ax.plot(p.confidence, mean, style, color=color, label=group)
        _style.band(ax, p.confidence, mean - std, mean + std, color, 0.18)
      ax.set(title=names[m.name], xlabel='maximum softmax probability')
    axes[0].set_ylabel('top logit')
    axes[0].legend(loc='best')
  return figure


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
      ax.plot(error, value, style, color='#555555', label=label)
    ax.set(xlabel='P(error)', ylabel='gradient on the top logit / α')
    ax.set_xlim(0, 1)
    _style.legend(figure, *ax.get_legend_handles_labels())
  return figure


def _densities(models: list[Measured], densities: Mapping[str, Any]) -> Figure:
  names = blocks.short_names([m.name for m in models])
  with _style.style():
    figure, (ax,) = _style.panels(1, height=2.7)
    low, high = [], []
    for i, m in enumerate(models):
      if m.name not in densities:
        continue
      grid, density = densities[m.name]
      ax.plot(grid, density, label=names[m.name], **_style.line(i))
      _style.band(ax, grid, density, 0, _style.color(i), 0.12)
      below = np.cumsum(density) / density.sum()
      low.append(grid[np.searchsorted(below, 0.0005)])
      high.append(grid[np.searchsorted(below, 0.9995)])
    ax.set(xlim=(min(low), max(high)), xlabel='logit', ylabel='density')
    ax.set_ylim(0)
    _style.legend(figure, *ax.get_legend_handles_labels())
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


def _table(numbers: Mapping[str, Any], data: str) -> blocks.Table:
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
    '',
    numbers,
    titles,
    f'{data}. Logits within a threshold of zero: mean over the examples of the '
    'share of the classes. Stability: 1 minus the mean variance of the '
    'predicted distributions within a class; closer to 1 means that examples '
    'of a class look more alike to the classifier.',
  )
