"""Random access to the records of TFRecord files, without TensorFlow.

A file is a sequence of records, each of which is

    uint64  length of the data
    uint32  masked CRC-32C of the length
    bytes   the data
    uint32  masked CRC-32C of the data

in little-endian order. Nothing says where a record begins but the ones before
it, so the lengths are read once, from all files, and kept: see `_record_index`.
"""

import bisect
import dataclasses
import itertools
import struct
from collections.abc import Sequence

import numpy as np

from maxsup_jax.data import _optional
from maxsup_jax.data._record_files import Files

_HEADER_BYTES, _FOOTER_BYTES = 12, 4


class DamagedError(Exception):
  """A file is not what it should be; the message is one line that names it."""


def find_records(files: Files, path: str, size: int) -> np.ndarray:
  """Where the records of a file begin.

  Args:
    files: reads it.
    path: of the file.
    size: of the file, in bytes.

  Returns:
    int64 `[n + 1]`: the beginnings of the n records, and the end.

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
            f'{path} is damaged at byte {at}, or is no TFRecord file'
          )
        at += _HEADER_BYTES + length + _FOOTER_BYTES
      if len(header) < _HEADER_BYTES or at > size:
        raise DamagedError(f'{path} is cut off: it has {size} bytes')
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
  """Some records of one file, in a row.

  Attributes:
    path: of the file.
    starts: int64 `[n + 1]`: where the n records begin, and where the last ends.
  """

  path: str
  starts: np.ndarray

  def __len__(self) -> int:
    return len(self.starts) - 1


class Records(Sequence[bytes]):
  """The data of the records of several files.

  Args:
    files: reads them.
    shards: the records.
  """

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
  """The CRC-32C of a few bytes.

  Examples:
    >>> hex(_crc32c(b'123456789'))
    '0xe3069283'
  """
  checksum = 0xFFFFFFFF
  for byte in data:
    checksum = _TABLE[(checksum ^ byte) & 255] ^ checksum >> 8
  return checksum ^ 0xFFFFFFFF
