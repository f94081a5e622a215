"""A directory of results: nothing in it is lost, nothing stale stays."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxsup_jax import files
from maxsup_jax.errors import UsageError

RESULTS = 'results.json'
_STAGE = '.maxsup_jax-'
_BEGUN = '.begun.json'


class Directory:
  """Where a program writes results.json and the files that belong to it.

  Args:
    path: of the directory; it is made, and nothing else. One that holds
      anything else, or cannot be written, is refused.
    kind: what the program writes, such as 'report'. Only results of the same
      kind can be replaced.
    overwrite: whether they may be.
  """

  def __init__(
    self, path: str | os.PathLike, kind: str, *, overwrite: bool = False
  ):
    self.path, self._kind = Path(path), kind
    if '\0' in str(path):
      raise UsageError(f'{str(path)!r} cannot be written: it contains a NUL')
    with files.one_line_errors(path):
      self._old = self._check(overwrite)
      self.path.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=self.path):
        pass

  def write(
    self, contents: Mapping[str, bytes | str], results: Mapping[str, Any]
  ) -> None:
    """Writes all files, results.json last, and removes older ones.

    If it is interrupted, results.json says `incomplete`, and the next run with
    `overwrite` replaces everything. The names of the files are added to the
    results.
    """
    results = {'kind': self._kind, **results, 'files': sorted(contents)}
    begun = {
      'kind': self._kind,
      'incomplete': True,
      'files': sorted({*contents, *self._old}),
    }
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    whole = {**contents, RESULTS: text + '\n', _BEGUN: json.dumps(begun)}
    for name in whole:
      if (self.path / name).is_dir():
        raise UsageError(f'{self.path / name} is a directory, not a file')
    # A full disk is met before anything is replaced.
    with (
      files.one_line_errors(self.path),
      tempfile.TemporaryDirectory(dir=self.path, prefix=_STAGE) as new,
    ):
      for name, content in whole.items():
        if isinstance(content, str):
          content = content.encode()
        (Path(new) / name).write_bytes(content)
      os.replace(Path(new) / _BEGUN, self.path / RESULTS)
      for name in contents:
        os.replace(Path(new) / name, self.path / name)
      for name in set(self._old) - set(whole):
        stale = self.path / name
        if stale.is_file() or stale.is_symlink():
          stale.unlink()
      os.replace(Path(new) / RESULTS, self.path / RESULTS)

  def _check(self, overwrite: bool) -> list[str]:
    """Refuses what is in the way; the files of the results that are there."""
    if not self.path.exists():
      return []
    if not self.path.is_dir():
      raise UsageError(f'{self.path} is a file; expected a directory')
    # What a killed run was writing is in nobody's way.
    if all(p.name.startswith(_STAGE) for p in self.path.iterdir()):
      return []
    found = self._results()
    if found is None:
      raise UsageError(
        f'{self.path} is not empty and has no {self._kind} of this version; '
        'choose another'
      )
    if not overwrite:
      raise UsageError(
        f'{self.path} has a {self._kind}; choose another, or add overwrite=True'
      )
    names = found.get('files')
    # Somebody may have changed the list: only plain names are files of ours.
    return [
      n
      for n in (names if isinstance(names, list) else [])
      if isinstance(n, str)
      and n not in ('', '.', '..')
      and '\0' not in n
      and Path(n).name == n
    ]

  def _results(self) -> dict[str, Any] | None:
    """The results that are there, if they are of this kind."""
    try:
      found = json.loads((self.path / RESULTS).read_text(encoding='utf-8'))
    except (OSError, ValueError):
      return None
    same = isinstance(found, dict) and found.get('kind') == self._kind
    return found if same else None
