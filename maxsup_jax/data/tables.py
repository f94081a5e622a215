"""Tables: columns of numbers and categories, and the feature vectors they give.

What makes vectors of rows is learned from the training rows alone, and kept
with a run: mean and deviation of each column of numbers, the categories of each
other column, and the names of the classes.
"""

import csv
import dataclasses
import io
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from maxsup_jax.data.pipeline import rows_of_part
from maxsup_jax.data.sources import ArraySource, check_spellings, slice_of
from maxsup_jax.data.text import read_content
from maxsup_jax.errors import UsageError, one_line, unknown

# What the names of tables begin with.
CSV, PARQUET = 'csv:', 'parquet:'
BREAST_CANCER = 'breast_cancer'
# What stands in a cell that holds nothing, in lower case.
_MISSING = ('', '?', 'n/a', 'na', 'nan', 'none', 'null')
# More of them are names or numbers of rows.
_MOST_CATEGORIES = 1000

# A column: texts of cells, or float64 with NaN for a missing number.
Cells = Sequence[str] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Column:
  """What becomes of one column: a standardised number, or a one-hot code.

  Attributes:
    name: of the column.
    mean, std: of the numbers in the training rows.
    categories: of a column of texts; () for numbers.
  """

  name: str
  mean: float = 0.0
  std: float = 1.0
  categories: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Columns:
  """Makes vectors of the rows of a table, as its training rows say.

  Numbers are standardised by the mean and the deviation (divided by n) of the
  training rows. Texts become one-hot codes, of 0 and 1. A column that has one
  value in all training rows is left out. A missing number becomes the mean,
  which is 0 then; a missing category, and one that training did not have,
  all zeros.

  Attributes:
    columns: those that are not left out.
    classes: the names of the classes, in order; () where labels are ids.

  Examples:
    >>> table = {'age': ['20', '40', ''], 'town': ['Bonn', 'Köln', 'Bonn']}
    >>> columns = Columns.learned(table, np.arange(3), name='people')
    >>> columns.encode(table, 'people')
    array([[-1.,  1.,  0.],
           [ 1.,  0.,  1.],
           [ 0.,  1.,  0.]], dtype=float32)
  """

  columns: tuple[Column, ...]
  classes: tuple[str, ...] = ()
  # What `content` is called in the directory of a run.
  file = 'columns.json'

  @classmethod
  def learned(
    cls,
    table: Mapping[str, Cells],
    rows: np.ndarray,
    *,
    name: str,
    classes: Sequence[str] = (),
  ) -> 'Columns':
    """Learns from some rows of a table.

    Raises:
      UsageError: if no column has two values, or one has too many texts.
    """
    found = []
    for title, cells in table.items():
      numbers = _numbers(cells)
      if isinstance(numbers, int):
        texts = {cells[row] for row in rows if not _is_missing(cells[row])}
        # '5,5' and '1,234' are likely meant as numbers, too.
        bare = [text.replace(',', '') for text in texts]
        if any(isinstance(_numbers([text]), np.ndarray) for text in bare):
          warnings.warn(
            f'{name}: column {title!r} counts as categories, as row '
            f'{numbers + 1} has {cells[numbers]!r}, which is not a number',
            stacklevel=2,
          )
        if len(texts) > _MOST_CATEGORIES:
          raise UsageError(
            f'{name}: column {title!r} has {len(texts):,} different texts; '
            f'expected numbers or at most {_MOST_CATEGORIES:,} categories; '
            'remove the column if it names the rows'
          )
        if len(texts) > 1:
          found.append(Column(title, categories=tuple(sorted(texts))))
        continue
      known = numbers[rows]
      known = known[~np.isnan(known)]
      # The deviation of equal numbers is not always 0.
      if len(np.unique(known)) > 1:
        with np.errstate(over='ignore'):
          mean, std = float(known.mean()), float(known.std())
        if not 0 < std < math.inf:
          raise UsageError(
            f'{name}: column {title!r} has numbers up to '
            f'{np.abs(known).max():g}, which cannot be standardised'
          )
        found.append(Column(title, mean, std))
    if not found:
      raise UsageError(
        f'{name}: no column has two values in the training rows, besides the '
        'label'
      )
    return cls(tuple(found), tuple(classes))

  def encode(self, table: Mapping[str, Cells], name: str) -> np.ndarray:
    """The vectors of all rows, float32 `[N, F]`.

    Args:
      table: with these columns, and perhaps more.
      name: for messages.

    Raises:
      UsageError: for a column that is not there, or a cell that is no number.
    """
    parts = []
    for column in self.columns:
      if column.name not in table:
        raise UsageError(
          f'{name}: no column {column.name!r}, which training had; it has '
          f'{", ".join(table) or "none"}'
        )
      cells = table[column.name]
      if column.categories:
        known = {text: k for k, text in enumerate(column.categories)}
        ids_N = np.array([known.get(str(cell), -1) for cell in cells], int)
        parts.append(ids_N[:, None] == np.arange(len(known)))
        continue
      numbers = _numbers(cells)
      if isinstance(numbers, int):
        raise UsageError(
          f'{name}: row {numbers + 1} has {cells[numbers]!r} in column '
          f'{column.name!r}; expected a number, as in training'
        )
      scaled = (numbers - column.mean) / column.std
      parts.append(np.where(np.isnan(scaled), 0, scaled)[:, None])
    return np.concatenate(parts, 1).astype(np.float32)

  def content(self) -> bytes:
    """Everything, for a file."""
    return json.dumps(dataclasses.asdict(self), ensure_ascii=False).encode()

  @classmethod
  def read(cls, path: str | os.PathLike) -> 'Columns':
    """Reads what `content` gave.

    Raises:
      UsageError: if the file is something else.
    """
    try:
      found = json.loads(Path(path).read_bytes())
      columns = tuple(
        Column(**{**c, 'categories': tuple(c['categories'])})
        for c in found['columns']
      )
      return cls(columns, tuple(found['classes']))
    except (OSError, ValueError, LookupError, TypeError) as error:
      raise UsageError(f'{path} cannot be read: {one_line(error)}') from None


def open_table(
  name: str,
  split: str,
  *,
  label_key: str = 'label',
  held_out: float = 0.2,
  split_seed: int = 0,
  encoder: Columns | None = None,
) -> ArraySource:
  """Opens some rows of a table, as feature vectors float32 `[N, F]`.

  Args:
    name: 'csv:' and a file, plain or gzip, whose first line names the columns,
      separated by commas, semicolons or tabs; 'parquet:' and a file; or
      'breast_cancer', the 569 tumours that scikit-learn ships. '{split}' in
      the name of a file stands for the split: each has a file of its own.
    split: of one file: 'train', 'test', or 'all', which is both; or a slice of
      them, such as `train[:90%]`. Rows stay in their order; which of them are
      in a slice is drawn, unless it is one of all or of a file of its own.
    label_key: the column of classes.
    held_out: the share of the rows of each class that is for `test`, see
      `pipeline.rows_of_part`.
    split_seed: draws which rows these are.
    encoder: what makes vectors of rows; None to learn it from these rows, as
      is right for training.

  Returns:
    The source, with its `encoder`.

  Raises:
    UsageError: one line, with the file, the row and the column.

  Examples:
    >>> train = open_table('breast_cancer', 'train')
    >>> test = open_table('breast_cancer', 'test', encoder=train.encoder)
    >>> len(train), len(test), train.image_shape, train.label_names
    (456, 113, (30,), ('malignant', 'benign'))
  """
  base = split.partition('[')[0]
  own_file = '{split}' in name
  if not own_file:  # Before a large file is read.
    rows_of_part(np.zeros(0), split, held_out, split_seed)
  if name == BREAST_CANCER:
    table, labels = _breast_cancer()
    names: Sequence[str] = ('malignant', 'benign')
  else:
    path = name.partition(':')[2].replace('{split}', base)
    read = _read_csv if name.startswith(CSV) else _read_parquet
    table = read(os.path.expanduser(path))
    name = path
    if label_key not in table:
      raise unknown(
        f'column of labels {label_key!r} of {name}', label_key, table
      )
    labels = [str(cell) for cell in table.pop(label_key)]
    names = encoder.classes if encoder else ()
    names = names or _classes(labels, name, label_key)
  ids = {label: k for k, label in enumerate(names)}
  for row, label in enumerate(labels):
    if label not in ids:
      raise UsageError(
        f'{name}: row {row + 1} has {label!r} in column {label_key!r}; '
        f'expected one of {", ".join(names)}, the classes of training'
      )
  labels_N = np.array([ids[label] for label in labels], np.int32)
  if own_file:
    rows = np.arange(len(labels))[slice_of(split, len(labels))]
  else:
    rows = rows_of_part(labels_N, split, held_out, split_seed)
  name = f'{name}/{split}'
  if not len(rows):
    raise UsageError(f'{name} has no rows')
  if encoder is None:
    encoder = Columns.learned(table, rows, name=name, classes=names)
  part = {
    title: np.asarray(cells, None if _is_floats(cells) else object)[rows]
    for title, cells in table.items()
  }
  return vectors(part, labels_N[rows], len(names), names, encoder, name=name)


def vectors(
  table: Mapping[str, Cells],
  labels: np.ndarray,
  num_classes: int,
  label_names: Sequence[str] | None,
  encoder: Columns,
  *,
  name: str,
) -> ArraySource:
  """The rows of a table as examples; says how many cells are missing."""
  empty = {
    c.name: count
    for c in encoder.columns
    if c.name in table and (count := _count_missing(table[c.name]))
  }
  if empty:
    worst = max(empty, key=lambda title: empty[title])
    warnings.warn(
      f'{name}: {sum(empty.values()):,} cells are missing, {empty[worst]:,} of '
      f'them in column {worst!r}: numbers count as the mean of training, '
      'categories as none',
      stacklevel=2,
    )
  return ArraySource(
    encoder.encode(table, name),
    labels,
    num_classes,
    label_names=label_names,
    name=name,
    encoder=encoder,
  )


def _is_missing(cell: str) -> bool:
  return cell.lower() in _MISSING


def _is_floats(cells: Cells) -> TypeGuard[np.ndarray]:
  return isinstance(cells, np.ndarray) and cells.dtype.kind == 'f'


def _count_missing(cells: Cells) -> int:
  if _is_floats(cells):
    return int(np.isnan(cells).sum())
  return sum(map(_is_missing, cells))


def _numbers(cells: Cells) -> np.ndarray | int:
  """The numbers of a column, NaN where one is missing; or the first bad row."""
  if _is_floats(cells):
    return cells
  found = np.full(len(cells), math.nan)
  for row, cell in enumerate(cells):
    if not _is_missing(cell):
      try:
        found[row] = float(cell)
      except ValueError:
        return row
      if not math.isfinite(found[row]):
        return row
  return found


def _classes(labels: Sequence[str], name: str, key: str) -> list[str]:
  """The classes that there are; numbers in their order, before texts."""
  for row, label in enumerate(labels):
    if _is_missing(label):
      raise UsageError(
        f'{name}: row {row + 1} has no label in column {key!r}; remove the row'
      )

  def order(label: str) -> tuple[float, str]:
    value = _numbers([label])
    return (math.inf if isinstance(value, int) else float(value[0]), label)

  found = sorted(set(labels), key=order)
  if not 2 <= len(found) <= _MOST_CATEGORIES:
    raise UsageError(
      f'{name}: column {key!r} has {len(found):,} different labels; expected '
      f'from 2 to {_MOST_CATEGORIES:,} classes'
    )
  check_spellings(f'{name}: column {key!r}', found)
  return found


def _read_csv(path: str) -> dict[str, Any]:
  """The columns of a file, texts without blanks around them."""
  try:
    text = read_content(path).decode('utf-8-sig')
  except UnicodeDecodeError:
    raise UsageError(
      f'{path} is not UTF-8; convert the file, as with iconv'
    ) from None
  first = text.partition('\n')[0]
  delimiter = max(',;\t', key=first.count)
  try:
    reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter)
    lines = [[cell.strip() for cell in line] for line in reader if line]
  except csv.Error as error:
    raise UsageError(f'{path} is not a table: {error}') from None
  header, *rows = lines or [[]]
  twice = [title for title in header if header.count(title) > 1]
  if len(header) < 2 or twice:
    what = f'has {twice[0]!r} twice' if twice else f'has {len(header)} columns'
    raise UsageError(
      f'{path} {what}; expected a first line with the names of the columns, '
      'separated by commas, semicolons or tabs'
    )
  for i, row in enumerate(rows, 1):
    if len(row) != len(header):
      raise UsageError(
        f'{path}: row {i} has {len(row)} cells; expected {len(header)}, as '
        'many as the first line'
      )
  return {title: [row[i] for row in rows] for i, title in enumerate(header)}


def _read_parquet(path: str) -> dict[str, Any]:
  """The columns of a file; whatever is no number is text."""
  try:
    from pyarrow import parquet
  except ImportError:
    raise UsageError(f'{path} needs pyarrow: pip install pyarrow') from None
  try:
    columns = parquet.read_table(path).to_pydict()
  except (OSError, ValueError) as error:  # Also of pyarrow itself.
    raise UsageError(f'{path} cannot be read: {one_line(error)}') from None
  return {
    title: ['' if cell is None else str(cell) for cell in cells]
    for title, cells in columns.items()
  }


def _breast_cancer() -> tuple[dict[str, Any], list[str]]:
  """30 measurements of each tumour, and whether it is benign."""
  try:
    import sklearn.datasets
  except ImportError:
    raise UsageError(
      f'{BREAST_CANCER} comes with scikit-learn: pip install scikit-learn'
    ) from None
  found = sklearn.datasets.load_breast_cancer()
  table = dict(zip(map(str, found.feature_names), found.data.T))
  return table, [str(found.target_names[k]) for k in found.target]
