"""Where the records of TFRecord files begin: found out once, and kept.

For the 1,024 files of ImageNet on a disk this takes a few seconds. In object
storage most of their bytes have to pass, once.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from maxsup_jax.data import _record_files, _tfrecord

_INDEX = '.tfrecord_index.npz'
_QUIET_SECONDS = 5.0
# Object storage answers slowly, but many at a time.
_REMOTE_THREADS = 32

# A file's size and time of change, and where its records begin.
_Entry = tuple[tuple[int, int], np.ndarray]


def record_starts(
  directory: str, paths: Sequence[str], files: _record_files.Files
) -> dict[str, np.ndarray]:
  """Where the records of some files begin.

  What was found is written to a file in the directory or, where that cannot be,
  to the user's directory for caches; and where that cannot be either, nowhere.

  Args:
    directory: of the dataset.
    paths: of files in it.
    files: reads them.

  Returns:
    Of each path, int64 `[n + 1]`: where its n records begin, and the end.

  Raises:
    FileNotFoundError: if a file is missing; its `filename` says which.
    DamagedError: if a file is damaged.
  """
  places = _places(directory)
  known: dict[str, _Entry] = {}
  for place in reversed(places):
    known.update(_load(place))
  remote = not isinstance(files, _record_files.LocalFiles)
  threads = _REMOTE_THREADS if remote else 1
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    prints = list(pool.map(lambda p: _fingerprint(files, p), paths))
    fresh = {
      path: fingerprint
      for path, fingerprint in zip(paths, prints)
      if _name(path) not in known or known[_name(path)][0] != fingerprint
    }

    def find(path: str) -> np.ndarray:
      return _tfrecord.find_records(files, path, fresh[path][0])

    if fresh:
      found = _tracked(pool.map(find, fresh), len(fresh), directory)
      for path, starts in zip(fresh, found):
        known[_name(path)] = fresh[path], starts
      _save(places, known)
  return {path: known[_name(path)][1] for path in paths}


def _name(path: str) -> str:
  return path.replace('\\', '/').rpartition('/')[2]


def _fingerprint(files: _record_files.Files, path: str) -> tuple[int, int]:
  try:
    return files.fingerprint(path)
  except FileNotFoundError as error:
    raise FileNotFoundError(error.errno, 'missing', path) from error


def _places(directory: str) -> list[pathlib.Path]:
  """Where the index may be, the best place first."""
  places = []
  if '://' not in directory:
    places.append(pathlib.Path(directory) / _INDEX)
  caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  digest = hashlib.sha256(directory.encode()).hexdigest()[:20]
  try:
    caches = pathlib.Path(caches).expanduser() / 'maxsup_jax'
  except RuntimeError:  # Whoever runs this has no home.
    return places
  return [*places, caches / f'tfrecord_index_{digest}.npz']


def _load(place: pathlib.Path) -> dict[str, _Entry]:
  """What was saved; nothing where that cannot be read any more."""
  try:
    with np.load(place) as saved:
      names, prints = saved['names'].tolist(), saved['fingerprints'].tolist()
      counts, starts = saved['counts'], saved['starts']
  except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
    return {}
  parts = np.split(starts, np.cumsum(counts)[:-1])
  return {
    name: (tuple(fingerprint), part)
    for name, fingerprint, part in zip(names, prints, parts, strict=True)
  }


def _save(
  places: Sequence[pathlib.Path], known: Mapping[str, _Entry]
) -> pathlib.Path | None:
  """Writes the index to the first place where that is possible."""
  arrays = {
    'names': np.array(list(known)),
    'fingerprints': np.array([entry[0] for entry in known.values()], np.int64),
    'counts': np.array([len(entry[1]) for entry in known.values()], np.int64),
    'starts': np.concatenate([entry[1] for entry in known.values()]),
  }
  for place in places:
    try:
      place.parent.mkdir(parents=True, exist_ok=True)
      # Renamed at the end: another process may read it meanwhile.
      with tempfile.NamedTemporaryFile(
        dir=place.parent, prefix=place.name, delete=False
      ) as file:
        try:
          np.savez(file, **arrays)
          os.chmod(file.name, 0o644)
          os.replace(file.name, place)
        except BaseException:
          os.unlink(file.name)
          raise
      return place
    except OSError:
      continue
  return None


def _tracked(found, count, directory):
  """Passes on what is found, and shows the progress if it takes long."""
  import tqdm

  return tqdm.tqdm(
    found,
    desc=f'Finding the records of {directory}, once',
    total=count,
    unit=' files',
    file=sys.stderr,
    delay=_QUIET_SECONDS,
    # In a file every update is kept.
    mininterval=0.5 if sys.stderr.isatty() else 10.0,
    leave=False,
  )
