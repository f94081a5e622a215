"""The look of all figures, and how they become files."""

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

# Each stands out from white and from the dark page, with a contrast of at least
# 3:1; the first is what letters are drawn in, and follows the page.
INK, BACK = '#1a1a1a', '#ffffff'
COLORS = (
  INK,
  '#D55E00',
  '#0072B2',
  '#009E73',
  '#CC5FA0',
  '#8C6D00',
  '#1E93C4',
  '#C23B3B',
  '#7A5BD0',
  '#777777',
)
# What is beside the point: lines to compare with, bars, the grid.
QUIET, BAR, GRID = '#777777', '#cccccc', '#dddddd'
# What changes on a dark page: the name on the page, there, and in the dark.
THEME = {
  INK: ('ink', '#e6e6e6'),
  BACK: ('back', '#16181c'),
  BAR: ('bar', '#454a52'),
  GRID: ('grid', '#32363d'),
}
# So that lines differ on paper without colours, too.
LINES = ('-', '--', '-.', ':', (0, (3, 1, 1, 1, 1, 1)), (0, (5, 1)))
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
CORRECT, WRONG = COLORS[2], COLORS[1]
WIDTH = 7.2  # inches, of a figure as wide as the text

_SETTINGS = {
  'font.size': 9,
  'axes.titlesize': 9.5,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': GRID,
  **dict.fromkeys(
    ('text.color', 'axes.edgecolor', 'axes.labelcolor', 'xtick.color'), INK
  ),
  'ytick.color': INK,
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
  count: int, *, columns: int = 0, height: float = 2.6, **kwargs: Any
) -> tuple[Figure, list[Axes]]:
  """A figure of equal panels, row by row, each of so many inches in height.

  There are at most so many columns, by default 3, or 4 for more than six
  panels, and as few as the rows allow: four panels are two by two. Other
  arguments are those of `Figure.subplots`.
  """
  columns = columns or (3 if count <= 6 else 4)
  rows = -(-count // columns)
  columns = -(-count // rows)
  # A single panel need not be as wide as the text.
  width = WIDTH * (0.62 if columns == 1 else 1)
  figure = Figure(figsize=(width, height * rows))
  axes = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel()
  for ax in axes[count:]:
    ax.remove()
  # Where axes are shared, only the last row has numbers: it may be empty.
  for ax in axes[max(count - columns, 0) : count]:
    ax.tick_params(labelbottom=True)
  return figure, list(axes[:count])


def band(
  ax: Axes, x: Any, low: Any, high: Any, color: str, alpha: float
) -> None:
  """A pale range around a line."""
  ax.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)


def seeds(
  ax: Axes, x: Any, values: ArrayLike, i: int, **options: Any
) -> list[Any]:
  """The line of the i-th method: the mean over its seeds, and their range.

  NaN, where a seed is undefined, leaves a gap. Gives what the legend shows.
  """
  whole = np.asarray(values, np.float64)
  if len(whole) > 1:
    band(ax, x, whole.min(0), whole.max(0), color(i), 0.2)
  return ax.plot(x, whole.mean(0), **{**line(i), **options})


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


def inline(name: str, svg_bytes: bytes, alt: str) -> str:
  """An SVG as a part of a page, in the page's colours, dark or light.

  `name` keeps its ids apart from those of other figures; `alt` says what is
  seen to those who do not see it.
  """
  text = svg_bytes.decode()
  text = text[text.index('<svg') :]
  for part in ('metadata', 'style'):
    text = re.sub(f'<{part}.*?</{part}>', '', text, flags=re.DOTALL)
  text = re.sub('<!--.*?-->', '', text, flags=re.DOTALL)
  used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
  text = re.sub(
    r' id="([^"]*)"',
    lambda m: f' id="{name}-{m[1]}"' if m[1] in used else '',
    text,
  )
  text = re.sub(r'(href="|url\()#', rf'\g<1>#{name}-', text)
  for light, (role, _) in THEME.items():
    text = text.replace(light, f'var(--{role})')
  # Its size is the page's matter, its shape is in the viewBox.
  head, _, rest = text.partition('>')
  width = float(re.findall(r'width="([\d.]+)pt"', head)[0])
  share = f'style="--share:{width / 72 / WIDTH:.3g}"'
  head = re.sub(r' (width|height|xmlns:\w+|version)="[^"]*"', '', head)
  rest = rest.replace('xlink:href', 'href')
  alt = html.escape(alt)
  return f'{head} {share} role="img" aria-label="{alt}">' + re.sub(
    r'\n\s*', '\n', rest
  )
