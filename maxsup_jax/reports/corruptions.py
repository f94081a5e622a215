"""The picture of results on corrupted datasets: heat maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from maxsup_jax.reports import _style
from maxsup_jax.studies.corruption_results import METRICS

_TITLES = {'error': 'error (%)', 'nll': 'NLL', 'ece': 'ECE (%)'}
_CELL = 0.42, 0.24  # inches


def heat_maps(runs: Sequence[Mapping[str, Any]], caption: str) -> bytes:
  """Draws error, NLL and ECE of every corruption and severity, as a PNG.

  Runs are rows of panels; a colour means the same in all of them. The last
  column of a panel is the mean over the severities, its last row that over the
  corruptions.

  Args:
    runs: those of `studies.corruptions.run`.
    caption: what stands below.
  """
  records = {run['name']: run['datasets'] for run in runs}
  cleans = {run['name']: run['clean'] for run in runs}
  first = runs[0]['datasets']
  corruptions = list(dict.fromkeys(r['corruption'] for r in first))
  severities = sorted({r['severity'] for r in first})
  rows = [*(c.replace('_', ' ') for c in corruptions), 'mean']
  columns = [*map(str, severities), 'mean']
  panels = {
    (run, metric): _with_means(own, metric, corruptions, severities)
    for run, own in records.items()
    for metric in METRICS
  }
  with _style.quiet({'font.size': 8}):
    width, height = _CELL[0] * len(columns), _CELL[1] * len(rows)
    size = (
      max(1.4 + 3 * (width + 0.75), 6.5),
      (height + 0.75) * len(records) + 0.3,
    )
    figure = Figure(size, layout='constrained')
    axes = figure.subplots(len(records), 3, squeeze=False, sharey=True)
    for j, metric in enumerate(METRICS):
      scale = Normalize(*_range([panels[run, metric] for run in records]))
      for i, run in enumerate(records):
        ax = axes[i, j]
        title, clean = _TITLES[metric], cleans[run][metric]
        if clean is not None:
          title += f', clean {_text(clean, metric)}'
        if j == 0:
          ax.set_ylabel(run, fontsize=9, fontweight='bold')
        ax.set_title(title, fontsize=9)
        _panel(ax, panels[run, metric], scale, metric)
        ax.set_xticks(range(len(columns)), columns)
        ax.set_yticks(range(len(rows)), rows)
        if i == len(records) - 1:
          ax.set_xlabel('severity')
    figure.supxlabel(caption, fontsize=7, x=0.01, ha='left')
    return _style.saved(figure, 160)


def _with_means(
  records: Sequence[Mapping[str, Any]],
  metric: str,
  corruptions: Sequence[str],
  severities: Sequence[int],
) -> np.ndarray:
  """The values with their means as a last row and column; NaN if undefined."""
  values = np.full((len(corruptions), len(severities)), np.nan)
  for r in records:
    if r[metric] is not None:
      at = corruptions.index(r['corruption']), severities.index(r['severity'])
      values[at] = r[metric]
  values = np.concatenate([values, values.mean(1, keepdims=True)], 1)
  return np.concatenate([values, values.mean(0, keepdims=True)], 0)


def _range(panels: Sequence[np.ndarray]) -> tuple[float, float]:
  values = np.concatenate([p.ravel() for p in panels])
  values = values[np.isfinite(values)]
  if not values.size:
    return 0, 1
  low, high = values.min(), values.max()
  return low, high if high > low else low + 1


def _panel(ax: Axes, values: np.ndarray, scale: Normalize, metric: str) -> None:
  colors = matplotlib.colormaps['YlGnBu'](scale(np.ma.masked_invalid(values)))
  colors[~np.isfinite(values)] = (0.9, 0.9, 0.9, 1)
  ax.imshow(colors, aspect='auto')
  for (i, j), value in np.ndenumerate(values):
    dark = colors[i, j, :3] @ (0.299, 0.587, 0.114) < 0.55
    text = _text(value, metric) if np.isfinite(value) else '?'
    look: dict[str, Any] = {
      'color': 'white' if dark else 'black',
      'fontsize': 7,
    }
    ax.text(j, i, text, ha='center', va='center', **look)
  # Means stand apart from what they are means of.
  height, width = values.shape
  ax.axhline(height - 1.5, color='white', linewidth=3)
  ax.axvline(width - 1.5, color='white', linewidth=3)
  ax.tick_params(length=0, labelsize=8)
  ax.spines[:].set_visible(False)


def _text(value: float, metric: str) -> str:
  return f'{value:.2f}' if metric == 'nll' else f'{100 * value:.1f}'
