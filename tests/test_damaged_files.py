"""Every reader, on damaged files: what comes out is ours, or one line."""

import io
import json
import shutil
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from maxsup_jax import outputs
from maxsup_jax.data import open_source
from maxsup_jax.data.decoding import EncodedImage
from maxsup_jax.errors import UsageError
from maxsup_jax.models import torch_weights
from maxsup_jax.tasks import open_workdir
from maxsup_jax.training.checkpoints import SEAL, Checkpoints
from tests.data.tfrecord import as_tfrecord

COUNT, SECONDS = 60, 3.0
DEEP = b'[' * 100_000 + b']' * 100_000


def _damages(content, seed):
  """Cuts, wrong bits, runs of zeros, and what came from another program."""
  yield from (b'', b'[]', b'null', b'{}', b'"\xff"', DEEP, content * 2)
  yield content[: len(content) // 2]
  rng = np.random.default_rng(seed)
  for _ in range(COUNT):
    bad = bytearray(content)
    kind, at = rng.integers(4), int(rng.integers(len(bad)))
    if kind == 0:
      bad = bad[:at]
    elif kind == 1:
      bad[at] ^= 1 << int(rng.integers(8))
    elif kind == 2:
      bad[at : at + 8] = bytes(min(8, len(bad) - at))
    else:
      bad[at : at + 4] = rng.bytes(4)
    yield bytes(bad)


def _images():
  rng = np.random.default_rng(0)
  pixels = Image.fromarray(rng.integers(0, 256, (21, 30, 3), np.uint8))
  for name in ('PNG', 'JPEG', 'GIF', 'BMP', 'WebP'):
    file = io.BytesIO()
    pixels.save(file, name)
    yield name, file.getvalue()


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
  directory = tmp_path_factory.mktemp('digits')
  open_source('digits', 'test', data_dir=directory)
  (info,) = directory.rglob('dataset_info.json')
  return info.parent


def _npz(path):
  rng = np.random.default_rng(0)
  file = path / 'x.npz'
  arrays = {
    'logits': rng.normal(size=(40, 3)).astype(np.float32),
    'labels': rng.integers(0, 3, 40),
    'metadata': np.array(json.dumps({'name': 'x'})),
    'history': np.array(json.dumps([{'kind': 'train', 'step': 1}])),
  }
  np.savez_compressed(file, **arrays)

  def read():
    found = outputs.read(file)
    for name in ('logits', 'labels'):  # Checksums, or an error.
      np.testing.assert_array_equal(getattr(found, name), arrays[name])

  return file, read


def _workdir(path, name):
  file = path / name
  contents = {
    'config.json': json.dumps({'seed': 3, 'model': {'name': 'resnet8'}}),
    'metrics.jsonl': '{"kind": "train", "step": 1}\n' * 3,
    'run.json': json.dumps({'starts': [{'devices': {'count': 2}}]}),
  }
  file.write_text(contents[name])
  workdir = open_workdir(path, writes=True)
  reads = {
    'config.json': workdir.config,
    'metrics.jsonl': lambda: (workdir.metrics(), workdir.rewind(1)),
    'run.json': lambda: (
      workdir.last_device_count(),
      workdir.record_start(0, 1),
    ),
  }
  return file, reads[name]


def _checkpoint(path, name):
  state = {'a': np.arange(50.0)}
  with Checkpoints(path / 'checkpoints') as checkpoints:
    checkpoints.save(7, state, {'x': 1})
  (file,) = (path / 'checkpoints' / '7').rglob(name)

  def read():
    with Checkpoints(path / 'checkpoints') as checkpoints:
      found, _ = checkpoints.restore(7, state)
    np.testing.assert_array_equal(found['a'], state['a'])

  return file, read


def _weights(path, suffix):
  if suffix == '.pth':
    pytest.importorskip('torch')
  file = path / f'x{suffix}'
  torch_weights.write(file, {'w': np.arange(6.0, dtype=np.float32)})
  return file, lambda: torch_weights.read(file)


def _image(path, name):
  file = path / 'image'
  file.write_bytes(dict(_images())[name])
  return file, lambda: EncodedImage(file.read_bytes(), 3).decode()


def _records(path, digits, kind):
  copy = path / 'digits' / '1.0.0'
  if kind == 'tfrecord':
    copy = as_tfrecord(digits, copy, 1)
  else:
    shutil.copytree(digits, copy)
  (file,) = copy.glob('*test*')

  def read():
    source = open_source(str(copy), 'test')
    for index in (0, len(source) // 2, len(source) - 1):
      source[index]

  return file, read


CASES = {
  'npz': _npz,
  **{
    name: lambda path, name=name: _workdir(path, name)
    for name in ('config.json', 'metrics.jsonl', 'run.json')
  },
  **{
    name: lambda path, name=name: _checkpoint(path, name)
    for name in (SEAL, 'state/manifest.ocdbt', 'extra/metadata')
  },
  **{
    name: lambda path, name=name: _weights(path, name)
    for name in ('.safetensors', '.pth')
  },
  **{name: lambda path, name=name: _image(path, name) for name, _ in _images()},
}


def _check(file, read, seed=0):
  read()  # As it is.
  content, until = file.read_bytes(), time.monotonic() + SECONDS
  messages = []
  for bad in _damages(content, seed):
    file.write_bytes(bad)
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        read()
    except UsageError as e:
      messages.append(str(e))
    if time.monotonic() > until:
      break
  assert all('\n' not in m and len(m) < 1000 for m in messages)
  return len(messages)


@pytest.mark.parametrize('name', CASES)
def test_a_damaged_file_is_one_line(tmp_path, name):
  file, read = CASES[name](tmp_path)
  refused = _check(file, read)
  # What only says how a run went never stops it.
  assert bool(refused) == (name not in ('metrics.jsonl', 'run.json'))


@pytest.mark.parametrize('kind', ['tfrecord', 'array_record'])
def test_damaged_records_are_one_line(tmp_path, digits, kind):
  assert _check(*_records(tmp_path, digits, kind))
