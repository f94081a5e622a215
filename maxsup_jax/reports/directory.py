"""A directory of results: nothing in it is lost, nothing stale stays."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxsup_jax._errors import UsageError

RESULTS = 'results.json'


class Directory:
  """Where a program writes results.json and the files that belong to it.

  Args:
    path: of the directory; it is made.
    kind: what the program writes, such as 'report'. Only results of the same
      kind can be replaced.
    overwrite: whether they may be.

  Raises:
    UsageError: one line, if the directory holds anything else, or cannot be
      written. Nothing is written but the directory itself.
  """

  def __init__(self, path: Path, kind: str, *, overwrite: bool = False):
    self.path, self._kind = path, kind
    self._old: list[str] = []
    if path.exists() and not path.is_dir():
      raise UsageError(f'--out={path} is a file; expected a directory')
    if path.exists() and any(path.iterdir()):
      found = self._results()
      if found is None:
        raise UsageError(
          f'--out={path} is not empty and holds no {kind}; choose another'
        )
      if not overwrite:
        raise UsageError(
          f'--out={path} holds a {kind}; choose another, or add --overwrite'
        )
      self._old = [n for n in found.get('files', []) if Path(n).name == n]
    try:
      path.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=path):
        pass
    except OSError as e:
      raise UsageError(
        f'--out={path} cannot be written: {e.strerror}'
      ) from None

  def write(
    self, files: Mapping[str, bytes | str], results: Mapping[str, Any]
  ) -> None:
    """Writes all files, and results.json last; removes those of before.

    Args:
      files: contents by name; text is written as UTF-8.
      results: what JSON knows; the names of the files are added to it.
    """
    results = {'kind': self._kind, **results, 'files': sorted(files)}
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    files = {**files, RESULTS: text + '\n'}
    # A full disk, or a signal, is met before anything is replaced.
    with tempfile.TemporaryDirectory(dir=self.path, prefix='.') as new:
      for name, content in files.items():
        if isinstance(content, str):
          content = content.encode()
        (Path(new) / name).write_bytes(content)
      for name in set(self._old) - set(files):
        (self.path / name).unlink(missing_ok=True)
      for name in files:
        shutil.move(Path(new) / name, self.path / name)

  def _results(self) -> dict[str, Any] | None:
    """The results that are there, if they are of this kind."""
    try:
      found = json.loads((self.path / RESULTS).read_text())
    except (OSError, ValueError):
      return None
    same = isinstance(found, dict) and found.get('kind') == self._kind
    return found if same else None
