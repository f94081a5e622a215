"""Writes datasets as TFRecord files, by the definition of their form."""

import itertools
import json
import pathlib
import struct

import google_crc32c
from array_record.python import array_record_module


def masked_checksum(data):
  checksum = google_crc32c.value(data)
  rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
  return struct.pack('<I', (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data):
  length = struct.pack('<Q', len(data))
  return length + masked_checksum(length) + data + masked_checksum(data)


def write_file(path, records):
  pathlib.Path(path).write_bytes(b''.join(map(framed, records)))


def as_tfrecord(directory, copy, shards=1):
  """Copies a dataset that is prepared as ArrayRecord, one file a split.

  Args:
    directory: of the prepared version.
    copy: the directory to write to.
    shards: files of each split.
  """
  copy.mkdir(parents=True)
  info = json.loads((directory / 'dataset_info.json').read_text())
  info['fileFormat'] = 'tfrecord'
  for split in info['splits']:
    name = f'{info["name"]}-{split["name"]}'
    (source,) = directory.glob(f'{name}.array_record-*')
    reader = array_record_module.ArrayRecordReader(str(source))
    records = reader.read_all()
    reader.close()
    ends = [len(records) * i // shards for i in range(shards + 1)]
    parts = [records[a:b] for a, b in itertools.pairwise(ends)]
    split['shardLengths'] = [str(len(part)) for part in parts]
    for i, part in enumerate(parts):
      write_file(copy / f'{name}.tfrecord-{i:05}-of-{shards:05}', part)
  (copy / 'dataset_info.json').write_text(json.dumps(info))
  features = (directory / 'features.json').read_text()
  (copy / 'features.json').write_text(features)
  return copy
