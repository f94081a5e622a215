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

  That of a table of `prose` is a sentence, and needs room.
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[str | Cell]]
  caption: str
  prose: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
  """A drawn figure, the name of its files, and a caption.

  That says what it shows, for which data and by which convention.
  """

  name: str
  figure: MatplotlibFigure
  caption: str


Block = Text | Table | Figure


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report: what the page shows, and what the files hold.

  `numbers` are for results.json: nested mappings, lists, numbers, strings;
  `curves` for the CSV files: a name, and columns of equal length.
  """

  name: str
  title: str
  blocks: Sequence[Block]
  numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  curves: Mapping[str, Mapping[str, Sequence]] = dataclasses.field(
    default_factory=dict
  )


def table(
  heading: str,
  records: Mapping[str, Mapping[str, Any]],
  titles: Mapping[str, str | tuple[str, Callable[[Any], str | Cell]]],
  caption: str,
) -> Table:
  """A column for each record, by its name, and a row for each of its numbers.

  `titles` are the headings of the rows by their keys, where need be with how a
  number is written; what a record lacks is a dash.
  """
  rows: list[list[str | Cell]] = []
  for key, title in titles.items():
    name, form = (title, number) if isinstance(title, str) else title
    rows.append([name, *(form(r.get(key)) for r in records.values())])
  return Table([heading, *records], rows, caption)


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


def beside_calibrated(error: tuple[float, tuple[float, float]]) -> Cell:
  """A calibration error, and the range that perfect calibration gives."""
  value, (low, high) = error
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


def median_and_range(
  values: Sequence[float], form: Callable[[float], str]
) -> Cell:
  """A cell with the median over splits and, below it, the range."""
  details = []
  if len(values) > 1:
    details = [f'{form(float(min(values)))} to {form(float(max(values)))}']
  return Cell(form(float(np.median(values))), details)


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
