"""Random access to the records of TFRecord files, without TensorFlow.

A file is a sequence of records, each of which is

    uint64  length of the data
    uint32  masked CRC-32C of the length
    bytes   the data
    uint32  masked CRC-32C of the data

in little-endian order. Nothing says where a record begins but the ones before
it, so the lengths are read once, from all files, and kept in an index. For the
1,024 files of ImageNet on a disk this takes a few seconds. In object storage
most of their bytes have to pass, once.
"""

import bisect
import concurrent.futures
import dataclasses
import hashlib
import io
import itertools
import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from maxsup_jax.data import _optional
from maxsup_jax.data._prepare import track
from maxsup_jax.data._storage import Files, LocalFiles
from maxsup_jax.errors import UsageError
from maxsup_jax.files import write

_HEADER_BYTES, _FOOTER_BYTES = 12, 4

_INDEX = '.tfrecord_index.npz'
# Object storage answers slowly, but many at a time.
_REMOTE_THREADS = 32

# A file's size and time of change, and where its records begin.
_Entry = tuple[tuple[int, int], np.ndarray]


class DamagedError(Exception):
  """A file is damaged; the message is one line that names it."""


def find_records(files: Files, path: str, size: int) -> np.ndarray:
  """Where the records of a file of so many bytes begin: see `Shard.starts`.

  Raises:
    DamagedError: if it is no such file, or is cut off.
  """
  starts, at = [0], 0
  with files.stream(path) as file:
    while at < size:
      file.seek(at)
      header = file.read(_HEADER_BYTES)
      if len(header) == _HEADER_BYTES:
        length, checksum = struct.unpack('<QI', header)
        if checksum != _masked(_crc32c(header[:8])):
          raise DamagedError(
            f'{path} is damaged at byte {at}, or not a TFRecord file'
          )
        at += _HEADER_BYTES + length + _FOOTER_BYTES
      if len(header) < _HEADER_BYTES or at > size:
        raise DamagedError(f'{path} is truncated at {size} bytes')
      starts.append(at)
  return np.array(starts, np.int64)


def _read_record(files: Files, path: str, start: int, end: int) -> bytes:
  """The data of one record.

  The checksum is compared where a package is installed that computes it.
  """
  record = files.read(path, start, end - start)
  length = end - start - _HEADER_BYTES - _FOOTER_BYTES
  if len(record) != end - start or record[:8] != struct.pack('<Q', length):
    raise DamagedError(f'{path} has changed since it was opened')
  data = record[_HEADER_BYTES:-_FOOTER_BYTES]
  fast = _optional.crc32c()
  if fast is not None:
    (checksum,) = struct.unpack('<I', record[-_FOOTER_BYTES:])
    if checksum != _masked(fast(data)):
      raise DamagedError(f'the checksum of byte {start} of {path} is wrong')
  return data


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive records of one file."""

  path: str
  starts: np.ndarray  # int64 `[n + 1]`: where the n records begin, and the end.

  def __len__(self) -> int:
    return len(self.starts) - 1


class Records:
  """The data of the records of several files."""

  def __init__(self, files: Files, shards: Sequence[Shard]):
    self._files, self._shards = files, tuple(shards)
    # The number of records up to the end of each file.
    self._ends = list(itertools.accumulate(map(len, self._shards)))

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> bytes:
    index = range(len(self))[index]
    number = bisect.bisect_right(self._ends, index)
    shard = self._shards[number]
    row = index - self._ends[number] + len(shard)
    start, end = shard.starts[row : row + 2].tolist()
    return _read_record(self._files, shard.path, start, end)


def record_starts(
  directory: str, paths: Sequence[str], files: Files
) -> dict[str, np.ndarray]:
  """Where the records of some files begin.

  What was found is written to a file in the directory or, where that cannot be,
  to the user's directory for caches; and where that cannot be either, nowhere.

  Returns:
    `Shard.starts` of each path, which are of files in the directory.

  Raises:
    FileNotFoundError: if a file is missing; its `filename` says which.
    DamagedError: if a file is damaged.
  """
  places = _places(directory)
  known: dict[str, _Entry] = {}
  for place in reversed(places):
    known.update(_load(place))
  remote = not isinstance(files, LocalFiles)
  threads = _REMOTE_THREADS if remote else 1
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    prints = list(pool.map(lambda p: _fingerprint(files, p), paths))
    fresh = {
      path: fingerprint
      for path, fingerprint in zip(paths, prints)
      if _name(path) not in known or known[_name(path)][0] != fingerprint
    }

    def find(path: str) -> np.ndarray:
      return find_records(files, path, fresh[path][0])

    if fresh:
      found = track(
        pool.map(find, fresh),
        f'Finding the records of {directory}, once',
        'files',
        len(fresh),
      )
      for path, starts in zip(fresh, found):
        known[_name(path)] = fresh[path], starts
      _save(places, known)
  return {path: known[_name(path)][1] for path in paths}


def _name(path: str) -> str:
  return path.replace('\\', '/').rpartition('/')[2]


def _fingerprint(files: Files, path: str) -> tuple[int, int]:
  try:
    return files.fingerprint(path)
  except FileNotFoundError as error:
    raise FileNotFoundError(error.errno, 'missing', path) from error


def _places(directory: str) -> list[pathlib.Path]:
  """Where the index may be, the best place first."""
  places = []
  if '://' not in directory:
    places.append(pathlib.Path(directory) / _INDEX)
  caches = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
  digest = hashlib.sha256(directory.encode()).hexdigest()[:20]
  try:
    caches = caches.expanduser()
  except RuntimeError:  # Whoever runs this has no home.
    return places
  return [*places, caches / 'maxsup_jax' / f'tfrecord_index_{digest}.npz']


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


def _save(places: Sequence[pathlib.Path], known: Mapping[str, _Entry]) -> None:
  """Writes the index to the first place where that is possible."""
  file = io.BytesIO()
  np.savez(
    file,
    names=np.array(list(known)),
    fingerprints=np.array([entry[0] for entry in known.values()], np.int64),
    counts=np.array([len(entry[1]) for entry in known.values()], np.int64),
    starts=np.concatenate([entry[1] for entry in known.values()]),
  )
  for place in places:
    try:
      place.parent.mkdir(parents=True, exist_ok=True)
      write(place, file.getvalue())
    except (OSError, UsageError):
      continue
    return


def _masked(checksum: int) -> int:
  """The form in which the files have it."""
  rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
  return (rotated + 0xA282EAD8) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
  """The remainders of all bytes, by Castagnoli's polynomial."""
  remainders = []
  for byte in range(256):
    for _ in range(8):
      byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    remainders.append(byte)
  return tuple(remainders)


_TABLE = _table()


def _crc32c(data: bytes) -> int:
  """The CRC-32C of a few bytes."""
  checksum = 0xFFFFFFFF
  for byte in data:
    checksum = _TABLE[(checksum ^ byte) & 255] ^ checksum >> 8
  return checksum ^ 0xFFFFFFFF
