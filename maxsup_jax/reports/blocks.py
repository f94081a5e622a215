"""What a report consists of: sections of text, tables and figures."""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure


@dataclasses.dataclass(frozen=True)
class Text:
  """A paragraph."""

  text: str


class Note(Text):
  """A paragraph that says what is missing, and why."""


@dataclasses.dataclass(frozen=True)
class Cell:
  """A cell of a table, with smaller lines below its value.

  It is marked 'better' or 'worse' where an interval excludes zero, and its last
  details, from the one that begins with Δ on, are then the difference and the
  interval. What is `best` of its kind is set off.
  """

  value: str
  details: Sequence[str] = ()
  mark: str = ''
  best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
  """A table; the first cell of a row is its heading.

  That of a table of `prose` is a sentence, and needs room. The title says what
  the table is, the caption how to read it, for which data, by which convention.
  A `sortable` one is sorted by its headings.
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str | Cell]]
  caption: str
  prose: bool = False
  sortable: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
  """A drawn figure, the name of its files, and what is said of it.

  The title says what it is, `alt` what is seen in it, with numbers; the caption
  how to read it, for which data, by which convention.
  """

  name: str
  title: str
  figure: MatplotlibFigure
  alt: str
  caption: str


Block = Text | Table | Figure


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report: what the page shows, and what the files hold.

  `numbers` are for results.json, by model: nested mappings, lists, numbers,
  strings; `methods` likewise, over the seeds of a method; `curves` for the CSV
  files: a name, and columns of equal length. `lead` is what a reader should
  know first: mappings with a `sentence`.
  """

  name: str
  title: str
  blocks: Sequence[Block]
  numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  curves: Mapping[str, Mapping[str, Sequence]] = dataclasses.field(
    default_factory=dict
  )
  methods: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  lead: Sequence[Mapping[str, Any]] = ()


class Curves:
  """Collects rows of equal columns for a CSV file."""

  def __init__(self):
    self.columns: dict[str, list] = {}

  def add(self, length: int, **columns: Any) -> None:
    """Adds rows; a single value is repeated in all of them."""
    for name, values in columns.items():
      single = isinstance(values, str) or np.ndim(values) == 0
      values = [values] * length if single else list(np.asarray(values))
      assert len(values) == length, (name, len(values), length)
      self.columns.setdefault(name, []).extend(values)


def percent(value: float | None) -> str:
  """A share as a percentage; '—' where it is undefined.

  With two decimals, or with so many that a small one keeps two digits.
  """
  if value is None or undefined(value):
    return '—'
  if math.isinf(value):
    return str(value)
  size = abs(100 * value)
  # What is below is noise of float64, or as good as zero.
  if size < 1e-7:
    return '0%'
  decimals = max(2, 1 - math.floor(math.log10(size)))
  return f'{100 * value:.{decimals}f}%'


def beside_calibrated(error: tuple[float, float, float]) -> Cell:
  """A calibration error, and the range that perfect calibration gives."""
  value, low, high = error
  return Cell(
    percent(value), [f'{percent(low)} to {percent(high)} if calibrated']
  )


def number(value: float | None, digits: int = 4) -> str:
  """A number with some significant digits; '—' where it is undefined."""
  if value is None or undefined(value):
    return '—'
  if isinstance(value, numbers.Integral) or value == 0:
    return f'{int(value):,}'
  if math.isinf(value):
    return str(value)
  if not 1e-4 <= abs(value) < 1e6:
    return f'{value:.2e}'
  decimals = digits - 1 - math.floor(math.log10(abs(value)))
  return f'{value:.{max(0, decimals)}f}'


def undefined(value: float | None) -> bool:
  """Whether a number is undefined."""
  return value is None or (isinstance(value, float) and math.isnan(value))


def table(
  title: str,
  columns: Mapping[str, Sequence[Mapping[str, Any]]],
  rows: Mapping[str, str | tuple[str, Callable[[Any], str | Cell]]],
  caption: str,
) -> Table:
  """A column for each method, of its models' records, and a row for each key.

  `rows` are the headings by their keys, where need be with how a number is
  written; several models make a mean and a spread, see `spread`.
  """
  body: list[list[str | Cell]] = []
  for key, heading in rows.items():
    name, form = (heading, number) if isinstance(heading, str) else heading
    cells = (spread([r.get(key) for r in rs], form) for rs in columns.values())
    body.append([name, *cells])
  return Table(title, ['', *columns], body, caption)


def spread(
  values: Sequence[Any], form: Callable[[Any], str | Cell] = number
) -> str | Cell:
  """A value, or the mean of those of several seeds and, below, their spread.

  That is their standard deviation. Values are numbers, or tuples of them, of
  which the first is spread; it is a dash where one of them is undefined.
  """
  if len(values) == 1:
    return form(values[0])
  if any(v is None for v in values):
    return '—'
  array = np.array(values, np.float64)
  mean, first = array.mean(0), array.reshape(len(array), -1)[:, 0]
  cell = form(float(mean) if array.ndim == 1 else tuple(mean))
  cell = cell if isinstance(cell, Cell) else Cell(cell)
  if np.isnan(first).any():
    return '—'
  of = form if array.ndim == 1 else percent
  return dataclasses.replace(
    cell, details=[f'± {of(float(first.std(ddof=1)))}', *cell.details]
  )


def over_splits(
  values: Sequence[Sequence[float]], form: Callable[[float], str]
) -> str | Cell:
  """The median over random splits, and below it the range.

  `values` has those of each seed of a method; of several, medians are averaged.
  What is undefined in a split is left out.
  """
  defined = [[v for v in of if not undefined(v)] for of in values]
  if not all(defined):
    return '—'
  medians = [float(np.median(of)) for of in defined]
  if len(values) > 1 or len(defined[0]) < 2:
    return spread(medians, form)
  low, high = min(defined[0]), max(defined[0])
  return Cell(form(medians[0]), [f'{form(float(low))} to {form(float(high))}'])


def short(text: str, limit: int = 22) -> str:
  """A name that fits into a figure: its middle is left out if it is long."""
  if text.startswith('_'):
    # Matplotlib leaves such names out of legends; a hair space is not seen.
    text = f'\N{HAIR SPACE}{text}'
  if len(text) <= limit:
    return text
  head = (limit - 1) // 2
  return f'{text[:head]}…{text[head + 1 - limit :]}'


def short_names(names: Sequence[str], limit: int = 22) -> dict[str, str]:
  """Names of models that fit into a figure and still differ.

  Of long names, what all of them begin and end with is left out first.
  """
  if all(len(n) <= limit for n in names):
    return {n: short(n, limit + 1) for n in names}
  start = end = ''
  if len(names) > 1:
    start = _common_start(names)
    end = _common_start([n[len(start) :][::-1] for n in names])[::-1]
  dots = '…' if start else '', '…' if end else ''
  cut = [n[len(start) : len(n) - len(end)].join(dots) for n in names]
  cut = [short(n, limit) for n in cut]
  if len(set(cut)) < len(cut):
    cut = [f'{i + 1}: {short(n, limit - 4)}' for i, n in enumerate(cut)]
  return dict(zip(names, cut))


def _common_start(texts: Sequence[str]) -> str:
  columns = itertools.takewhile(lambda c: len(set(c)) == 1, zip(*texts))
  return ''.join(c[0] for c in columns)
