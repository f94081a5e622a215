"""The picture of results on corrupted datasets: heat maps."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maxsup_jax.studies.corruption_results import METRICS

_TITLES = {
  'error': 'error (%)',
  'nll': 'NLL',
  'ece': 'ECE (%)',
}
_CELL = 0.42, 0.24  # inches
_SETTINGS = {
  'font.size': 8,
  # A name may hold a dollar sign.
  'text.parse_math': False,
}


def heat_maps(runs: Sequence[Mapping[str, Any]], caption: str) -> bytes:
  """Draws error, NLL and ECE of every corruption and severity.

  Runs are rows of panels; a colour means the same in all of them. The last
  column of a panel is the mean over the severities, its last row that over the
  corruptions.

  Args:
    runs: those of `studies.corruptions.run`, each with its `name`, the record
      `clean` and the `datasets`, one for each corruption and severity.
    caption: what stands below.

  Returns:
    A PNG; equal results give equal bytes.
  """
  records = {run['name']: run['datasets'] for run in runs}
  cleans = {run['name']: run['clean'] for run in runs}
  first = next(iter(records.values()))
  corruptions = list(dict.fromkeys(r['corruption'] for r in first))
  severities = sorted({r['severity'] for r in first})
  rows = [*(c.replace('_', ' ') for c in corruptions), 'mean']
  columns = [*map(str, severities), 'mean']
  panels = {
    (run, metric): _with_means(own, metric, corruptions, severities)
    for run, own in records.items()
    for metric in METRICS
  }
  with matplotlib.rc_context(cast(Any, _SETTINGS)), warnings.catch_warnings():
    # Letters that the font lacks become boxes.
    warnings.filterwarnings('ignore', 'Glyph .* missing from font')
    width, height = _CELL[0] * len(columns), _CELL[1] * len(rows)
    figure = Figure(
      (
        max(1.4 + 3 * (width + 0.75), 6.5),
        (height + 0.75) * len(records) + 0.3,
      ),
      layout='constrained',
    )
    axes = figure.subplots(len(records), 3, squeeze=False, sharey=True)
    for j, metric in enumerate(METRICS):
      scale = matplotlib.colors.Normalize(
        *_range([panels[run, metric] for run in records])
      )
      for i, run in enumerate(records):
        ax = axes[i, j]
        title = _TITLES[metric]
        clean = cleans[run][metric]
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
    FigureCanvasAgg(figure)
    out = io.BytesIO()
    figure.savefig(out, format='png', dpi=160, metadata={'Software': None})
  return out.getvalue()


def _with_means(records, metric, corruptions, severities):
  """The values with their means as a last row and column; NaN if undefined."""
  values = np.full((len(corruptions), len(severities)), np.nan)
  for r in records:
    if r[metric] is not None:
      at = corruptions.index(r['corruption']), severities.index(r['severity'])
      values[at] = r[metric]
  values = np.concatenate([values, values.mean(1, keepdims=True)], 1)
  return np.concatenate([values, values.mean(0, keepdims=True)], 0)


def _range(panels):
  values = np.concatenate([p.ravel() for p in panels])
  values = values[np.isfinite(values)]
  if not values.size:
    return 0, 1
  low, high = values.min(), values.max()
  return low, high if high > low else low + 1


def _panel(ax, values, scale, metric):
  colors = matplotlib.colormaps['YlGnBu'](scale(np.ma.masked_invalid(values)))
  colors[~np.isfinite(values)] = (0.9, 0.9, 0.9, 1)
  ax.imshow(colors, aspect='auto')
  for (i, j), value in np.ndenumerate(values):
    dark = colors[i, j, :3] @ (0.299, 0.587, 0.114) < 0.55
    ax.text(
      j,
      i,
      _text(value, metric) if np.isfinite(value) else '?',
      ha='center',
      va='center',
      fontsize=7,
      color='white' if dark else 'black',
    )
  # Means stand apart from what they are means of.
  height, width = values.shape
  ax.axhline(height - 1.5, color='white', linewidth=3)
  ax.axvline(width - 1.5, color='white', linewidth=3)
  ax.tick_params(length=0, labelsize=8)
  for spine in ax.spines.values():
    spine.set_visible(False)


def _text(value, metric):
  return f'{value:.2f}' if metric == 'nll' else f'{100 * value:.1f}'
