"""The look of all figures, and how they become files."""

import base64
import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLORS = (
  '#000000',
  '#E69F00',
  '#0072B2',
  '#CC79A7',
  '#009E73',
  '#D55E00',
  '#56B4E9',
  '#8C6D00',
)
# So that lines differ on paper without colours, too.
LINES = ('-', '--', '-.', ':', (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)))
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
CORRECT, WRONG = '#0072B2', '#D55E00'
WIDTH = 7.2  # inches, of a figure as wide as the text

_SETTINGS = {
  'font.size': 9,
  'axes.titlesize': 9.5,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': '#dddddd',
  'grid.linewidth': 0.6,
  'legend.frameon': True,
  'legend.framealpha': 0.85,
  'legend.edgecolor': 'none',
  'legend.fontsize': 8,
  'lines.linewidth': 1.4,
  'figure.constrained_layout.use': True,
  # Letters as shapes: the page looks the same whatever fonts there are.
  'svg.fonttype': 'path',
  # The same figure gives the same bytes.
  'svg.hashsalt': 'maxsup_jax',
}


def style() -> contextlib.AbstractContextManager[None]:
  """The settings of all figures; use it while drawing and while saving."""
  return quiet(_SETTINGS)


@contextlib.contextmanager
def quiet(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
  """Draws any letter: a dollar is one, and those that no font has are boxes."""
  settings = {'text.parse_math': False, **(settings or {})}
  with matplotlib.rc_context(cast(Any, settings)), warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph .* missing from font')
    yield


def color(i: int) -> str:
  """The colour of the i-th model."""
  return COLORS[i % len(COLORS)]


def line(i: int) -> dict:
  """Colour and dashes of the i-th model's lines."""
  return {'color': color(i), 'linestyle': LINES[i % len(LINES)]}


def marker(i: int) -> str:
  """The marker of the i-th model."""
  return MARKERS[i % len(MARKERS)]


def panels(
  count: int, *, columns: int = 3, height: float = 2.6, **kwargs: Any
) -> tuple[Figure, list[Axes]]:
  """A figure of equal panels, row by row, each of so many inches in height.

  There are at most so many columns; unused places stay empty. Other arguments
  are those of `Figure.subplots`.
  """
  columns = min(columns, count)
  rows = -(-count // columns)
  # A single panel need not be as wide as the text.
  width = WIDTH * (0.62 if columns == 1 else 1)
  figure = Figure(figsize=(width, height * rows))
  axes = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel()
  for unused in axes[count:]:
    unused.set_visible(False)
  return figure, list(axes[:count])


def band(
  ax: Axes, x: Any, low: Any, high: Any, color: str, alpha: float
) -> None:
  """A pale range around a line."""
  ax.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def thin(*arrays: np.ndarray, limit: int = 1500) -> Sequence[np.ndarray]:
  """Keeps as many points of a curve as can be seen, denser at its start."""
  n = len(arrays[0])
  if n <= limit:
    return arrays
  even = np.linspace(0, n - 1, limit // 2)
  dense = np.geomspace(1, n, limit // 2) - 1
  keep = np.unique(np.concatenate([even, dense]).astype(int))
  return [a[keep] for a in arrays]


def legend(figure: Figure, handles: Sequence, labels: Sequence[str]) -> None:
  """A legend above the panels, with as many columns as fit."""
  renderer = FigureCanvasAgg(figure).get_renderer()
  for ncols in range(min(len(labels), 4), 0, -1):
    drawn = figure.legend(
      handles, labels, loc='outside upper left', ncols=ncols
    )
    fits = drawn.get_window_extent(renderer).width <= 0.98 * figure.bbox.width
    if fits or ncols == 1:
      return
    drawn.remove()


def svg(figure: Figure) -> bytes:
  """The figure as SVG, the same bytes each time."""
  out = io.BytesIO()
  with style():
    figure.savefig(out, format='svg', metadata={'Date': None})
  return out.getvalue()


def png(figure: Figure) -> bytes:
  """The figure as PNG."""
  with style():
    return saved(figure, 200)


def saved(figure: Figure, dpi: int) -> bytes:
  """The figure as PNG by the settings of now; equal ones give equal bytes."""
  out = io.BytesIO()
  figure.savefig(out, format='png', dpi=dpi, metadata={'Software': None})
  return out.getvalue()


def show_image(ax: Axes, image: np.ndarray, **options: Any) -> None:
  """Draws pixels, grey ones of one channel or RGB, as they are."""
  grey = image.shape[-1] == 1
  pixels, cmap = (image[..., 0], 'gray') if grey else (image, None)
  ax.imshow(pixels, cmap=cmap, vmin=0, vmax=255, **options)


def data_address(svg_bytes: bytes) -> str:
  """An SVG as a data URL."""
  return 'data:image/svg+xml;base64,' + base64.b64encode(svg_bytes).decode()
