"""The figure of Grad-CAM maps: images in rows, networks in columns."""

import io
import pathlib
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maxsup_jax import errors, files
from maxsup_jax.errors import UsageError
from maxsup_jax.reports import _style
from maxsup_jax.studies.gradcam import Column

NORMALIZATIONS = {
  'map': "each map divided by its own largest value, so the networks' maps "
  'can be compared in shape, not in strength',
  'row': 'the maps of a row divided by the largest value among them, so those '
  'of one architecture can be compared in strength, too',
}

_CELL = 1.55  # inches
_NAME = 18  # characters of a class name


def normalize(maps: np.ndarray, normalization: str = 'map') -> np.ndarray:
  """Brings the maps of a figure to one scale, from 0 to 1.

  Args:
    maps: `[columns, rows, H, W]`, at least 0.
    normalization: 'map' divides each map by its largest value, 'row' all maps
      of a row by the largest value among them. What is 0 stays 0.

  Examples:
    >>> maps = np.array([1.0, 2.0, 4.0, 0.0]).reshape(2, 1, 1, 2)
    >>> normalize(maps).ravel()
    array([0.5, 1. , 1. , 0. ])
    >>> normalize(maps, 'row').ravel()
    array([0.25, 0.5 , 1.  , 0.  ])
  """
  errors.one_of('normalization', normalization, NORMALIZATIONS)
  maps = np.asarray(maps, np.float64)
  axes = (2, 3) if normalization == 'map' else (0, 2, 3)
  top = maps.max(axes, keepdims=True)
  return np.divide(maps, top, out=np.zeros_like(maps), where=top > 0)


def gradcam_figure(
  images: np.ndarray,
  rows: Sequence[str],
  columns: Sequence[Column],
  *,
  normalization: str = 'map',
  caption: str = '',
) -> Figure:
  """Draws the images, and over each of them the map of every network.

  Above an overlay stands the predicted class with its probability, and a mark
  that says whether it is right. One colour scale, from 0 to 1, holds for the
  whole figure; `normalization` says what 1 is.

  Args:
    images: uint8 `[R, H, W, C]`, grey (one channel) or RGB.
    rows: what stands above each image, R of them.
    columns: the networks.
    normalization: see `normalize`; it is explained below the figure.
    caption: what else to say below it.
  """
  images = np.asarray(images)
  R, H, W, C = images.shape
  if len(rows) != R or any(c.maps.shape != (R, H, W) for c in columns):
    raise UsageError(
      f'images has the shape {images.shape}, which does not match '
      f'{len(rows)} row titles and maps of the shapes '
      f'{[c.maps.shape for c in columns]}'
    )
  if C not in (1, 3):
    raise UsageError(f'images have {C} channels; expected 1 or 3')
  maps = normalize(np.stack([c.maps for c in columns]), normalization)
  width = _CELL * (1 + len(columns)) + 0.7
  below = textwrap.wrap(
    f'{caption} Scale: {NORMALIZATIONS[normalization]}.'.strip(),
    width=max(30, int(width * 17)),
  )
  height = (_CELL * H / W + 0.32) * R + 0.35 + 0.14 * len(below)
  fig = Figure((width, height), layout='constrained')
  axes = fig.subplots(R, 1 + len(columns), squeeze=False)
  unit = matplotlib.colors.Normalize(0, 1)
  heat = matplotlib.cm.ScalarMappable(unit, 'inferno')
  for r in range(R):
    for ax in axes[r]:
      ax.set(xticks=[], yticks=[])
      _style.show_image(ax, images[r])
    axes[r, 0].set_title(_shorten(rows[r]), fontsize=8)
    for i, column in enumerate(columns):
      # Where there is no evidence the image shows most.
      look = {'alpha': 0.3 + 0.45 * maps[i, r], 'interpolation': 'bilinear'}
      axes[r, 1 + i].imshow(maps[i, r], cmap=heat.cmap, norm=heat.norm, **look)
      _describe(axes[r, 1 + i], column, r)
  # Above the titles, which have one line or two.
  lines = max(1 + ax.get_title().count('\n') for ax in axes[0])
  where = {'xycoords': 'axes fraction', 'textcoords': 'offset points'}
  look = {'ha': 'center', 'va': 'bottom', 'fontsize': 9, 'fontweight': 'bold'}
  for ax, title in zip(axes[0], ['image', *(c.title for c in columns)]):
    at = (0.5, 1), (0, 8 + 11 * lines)
    ax.annotate(_shorten(title, 24), *at, **where, **look)
  bar = fig.colorbar(heat, ax=axes, fraction=0.05, aspect=30, pad=0.02)
  bar.set_label('evidence for the class', fontsize=8)
  bar.ax.tick_params(labelsize=7)
  fig.supxlabel('\n'.join(below), fontsize=7, x=0.02, ha='left')
  return fig


def save(figure: Figure, path: str | pathlib.Path) -> None:
  """Writes a figure as PNG, SVG or PDF, by the suffix; without a date in it."""
  suffix = files.check_ending(path, files.FIGURES)
  # Equal figures give equal files.
  undated = {'.svg': {'Date': None}, '.pdf': {'CreationDate': None}}
  with matplotlib.rc_context({'svg.hashsalt': 'maxsup_jax'}):
    content = io.BytesIO()
    figure.savefig(
      content, format=suffix[1:], dpi=160, metadata=undated.get(suffix)
    )
  files.write(path, content.getvalue())


def _describe(ax: Axes, column: Column, r: int) -> None:
  """Says above an overlay what is predicted, and what is shown if not that."""
  correct, mark, color = column.correct[r], '', 'black'
  if correct is not None:
    mark, color = (' ✓', '#1a7f37') if correct else (' ✗', '#b3261e')
  lines = [f'{_shorten(column.predicted[r])} {column.confidence[r]:.1%}{mark}']
  explained = _shorten(column.explained[r])
  if not column.maps[r].max() > 0:
    lines.append(f'no evidence for {explained}')
  elif column.explained[r] != column.predicted[r]:
    lines.append(f'evidence for {explained}')
  ax.set_title('\n'.join(lines), fontsize=8, color=color, linespacing=1.05)


def _shorten(name: str, length: int = _NAME) -> str:
  return name if len(name) <= length else name[: length - 1] + '…'
