"""Files of PyTorch weights, and the order of their classes."""

import argparse
import collections
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.models import torch_weights

WEIGHTS = {
  'weight': np.arange(6, dtype=np.float32).reshape(2, 3),
  # Not laid out row by row, as transposed kernels are.
  'transposed': np.arange(6, dtype=np.float32).reshape(2, 3).T,
  'half': np.array([0.1, 2], np.float16),
  'count': np.array(5, np.int64),
}


def assert_same_arrays(a, b):
  assert a.keys() == b.keys()
  for name, value in a.items():
    assert value.dtype == b[name].dtype, name
    assert value.shape == b[name].shape, name
    np.testing.assert_array_equal(value, b[name], err_msg=name)


@pytest.mark.parametrize('suffix', ['.tar', '.safetensors'])
def test_reads_what_it_wrote(tmp_path, suffix):
  if suffix != '.safetensors':
    pytest.importorskip('torch')
  path = tmp_path / 'new' / f'weights{suffix}'
  torch_weights.write(path, WEIGHTS)
  assert_same_arrays(torch_weights.read(path), WEIGHTS)
  assert [p.name for p in path.parent.iterdir()] == [path.name]
  assert torch_weights.is_torch_file(path)
  assert not torch_weights.is_torch_file(tmp_path)
  before = path.read_bytes()
  with pytest.raises(UsageError, match='exists; choose another'):
    torch_weights.write(path, {})
  assert path.read_bytes() == before


def test_torch_reads_them(tmp_path):
  torch = pytest.importorskip('torch')
  safetensors = pytest.importorskip('safetensors.torch')
  torch_weights.write(tmp_path / 'a.pth', WEIGHTS)
  torch_weights.write(tmp_path / 'a.safetensors', WEIGHTS)
  for found in (
    torch.load(tmp_path / 'a.pth', weights_only=True),
    safetensors.load_file(tmp_path / 'a.safetensors'),
  ):
    assert_same_arrays({n: x.numpy() for n, x in found.items()}, WEIGHTS)


@pytest.fixture
def save(tmp_path):
  torch = pytest.importorskip('torch')

  def save(content, **options):
    torch.save(content, tmp_path / 'weights.pth', **options)
    return tmp_path / 'weights.pth'

  return save


def test_bfloat16(save, tmp_path):
  torch = pytest.importorskip('torch')
  safetensors = pytest.importorskip('safetensors.torch')
  content = {'x': torch.tensor([0.1, 3.0], dtype=torch.bfloat16)}
  expected = np.array([0.1, 3], jnp.bfloat16).astype(np.float32)
  found = torch_weights.read(save(content))['x']
  np.testing.assert_array_equal(found, expected)
  safetensors.save_file(content, tmp_path / 'x.safetensors')
  found = torch_weights.read(tmp_path / 'x.safetensors')['x']
  np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_what_numpy_does_not_know_is_one_line(save, tmp_path):
  torch = pytest.importorskip('torch')
  safetensors = pytest.importorskip('safetensors.torch')
  x = torch.ones(2, 2).to(torch.float8_e4m3fn)
  with pytest.raises(UsageError, match=r'pth: a is torch\.float8_e4m3fn') as e:
    torch_weights.read(save({'a': x}))
  assert '\n' not in str(e.value)
  with pytest.raises(UsageError, match=r'the layout torch\.sparse_coo'):
    torch_weights.read(save({'a': torch.eye(2).to_sparse()}))
  safetensors.save_file({'a': x}, tmp_path / 'a.safetensors')
  with pytest.raises(UsageError, match=r'not know \(.*float8_e4m3fn') as e:
    torch_weights.read(tmp_path / 'a.safetensors')
  assert '\n' not in str(e.value)


def test_the_weights_inside_a_checkpoint(save):
  torch = pytest.importorskip('torch')
  # As the DeiT code of the authors saves them.
  path = save(
    {
      'model': collections.OrderedDict(x=torch.tensor([1.0])),
      'optimizer': {'state': {0: {'step': 1}}, 'param_groups': []},
      'epoch': 299,
      'model_ema': {'x': torch.tensor([2.0])},
      'args': argparse.Namespace(lr=1e-3, output_dir='out'),
    }
  )
  assert torch_weights.read(path)['x'] == 1
  assert torch_weights.read(path, key='model_ema')['x'] == 2
  with pytest.raises(UsageError, match=r"under 'ema'; it has model, optimizer"):
    torch_weights.read(path, key='ema')
  with pytest.raises(UsageError, match=r"under 'epoch'"):
    torch_weights.read(path, key='epoch')
  with pytest.raises(UsageError, match="under 'model'; it is one"):
    torch_weights.read(save({'x': torch.ones(1)}), key='model')
  with pytest.raises(UsageError, match='x is a int, not an array'):
    torch_weights.read(save({'state_dict': {'x': 3}}))
  with pytest.raises(UsageError, match=r'one of net, ema'):
    torch_weights.read(save({'net': {}, 'ema': {}, 'epoch': 1}))
  # A parameter that requires gradients, and the format of old files.
  content = {'x': torch.nn.Parameter(torch.ones(2))}
  old = save(content, _use_new_zipfile_serialization=False)
  np.testing.assert_array_equal(torch_weights.read(old)['x'], np.ones(2))


class Surprise:
  def __reduce__(self):
    return (sys.exit, ('code of the file ran',))


def test_no_code_of_a_file_runs(save):
  path = save({'model': {}, 'hook': Surprise()})
  with pytest.raises(UsageError, match=r'a Python object, sys\.exit') as error:
    torch_weights.read(path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_files_that_cannot_be_read(tmp_path, suffix):
  if suffix != '.safetensors':
    pytest.importorskip('torch')
  path = tmp_path / f'weights{suffix}'
  with pytest.raises(UsageError, match='no file'):
    torch_weights.read(path)
  torch_weights.write(path, WEIGHTS)
  content = path.read_bytes()
  for damaged in (b'', b'some words', content[: len(content) // 2]):
    path.write_bytes(damaged)
    with pytest.raises(UsageError, match=r'damaged|cannot be read') as error:
      torch_weights.read(path)
    assert '\n' not in str(error.value)


def test_other_files(tmp_path, save):
  with pytest.raises(UsageError, match=r'expected one of \.pth, '):
    torch_weights.read(tmp_path / 'weights.npz')
  with pytest.raises(UsageError, match='holds a list; expected a state dict'):
    torch_weights.read(save([1, 2]))
  torch_weights.write(tmp_path / 'a.safetensors', WEIGHTS)
  with pytest.raises(UsageError, match="key is 'model'; expected None"):
    torch_weights.read(tmp_path / 'a.safetensors', key='model')
  (tmp_path / 'file').touch()
  with pytest.raises(UsageError, match='cannot be written'):
    torch_weights.write(tmp_path / 'file' / 'a.safetensors', WEIGHTS)


@pytest.mark.parametrize(
  ('suffix', 'package'), [('.pth', 'torch'), ('.safetensors', 'safetensors')]
)
def test_without_the_package(tmp_path, monkeypatch, suffix, package):
  for name in list(sys.modules):
    if name == package or name.startswith(f'{package}.'):
      monkeypatch.setitem(sys.modules, name, None)
  monkeypatch.setitem(sys.modules, package, None)
  path = tmp_path / f'weights{suffix}'
  with pytest.raises(UsageError, match=rf'maxsup_jax\[{package}\]'):
    torch_weights.write(path, WEIGHTS)
  assert not path.exists()
  path.touch()
  with pytest.raises(UsageError, match=rf'maxsup_jax\[{package}\]'):
    torch_weights.read(path)


NAMES = ['n01', 'n02', 'n03']


def test_the_order_of_a_map_of_files(tmp_path):
  path = tmp_path / 'val_map.txt'
  lines = [
    'val/n03/ILSVRC2012_val_00027260.JPEG\t0',
    'val/n03/ILSVRC2012_val_00020186.JPEG\t0',
    'val/n01/ILSVRC2012 val 3.JPEG\t1',
    '',
    'val/n02/ILSVRC2012_val_00000004.JPEG\t2',
  ]
  path.write_text('\n'.join(lines))
  order = torch_weights.class_order(path, NAMES)
  assert order.dtype == np.int64
  np.testing.assert_array_equal(order, [1, 2, 0])
  # n03 is row 0 there: the logit of class 2 here.
  np.testing.assert_array_equal(np.array([30, 10, 20])[order], [10, 20, 30])
  for same in (['n02/a 2', 'n01/b 1', 'n03/c 0'], ['n03', 'n01', 'n02']):
    np.testing.assert_array_equal(torch_weights.class_order(same, NAMES), order)


@pytest.mark.parametrize(
  ('lines', 'message'),
  [
    (
      ['n01/a 0', 'n02/b 1', 'n01/c 2'],
      r'line 3: class n01 has index 2, but 0',
    ),
    (['n01/a 0', 'n02/b 0'], 'line 2: index 0 is class n02, but n01'),
    (['n01', 'n02', 'n01'], 'line 3: class n01 is repeated'),
    (['n01/a 0', 'n03/b 1'], '1 of the 3 classes have no line, first n02'),
    ([], '3 of the 3 classes have no line, first n01'),
    (['n01/a 0', 'n09/b 1'], "line 2: 'n09/b' names no class of the 3"),
    (['n01/n02/a 0'], 'names more than one class'),
    (
      ['n01/a 0', 'n02'],
      'line 2: .*; expected an index on every line or on none',
    ),
    (['n01/a one'], "line 1: expected a path and an index.*got 'n01/a one'"),
    (['n01/a 1', 'n02/b 2', 'n03/c 3'], 'from 1 to 3; expected from 0 to 2'),
  ],
)
def test_orders_that_contradict_themselves(lines, message):
  with pytest.raises(UsageError, match=message) as error:
    torch_weights.class_order(lines, NAMES)
  assert '\n' not in str(error.value)


def test_no_such_order(tmp_path):
  with pytest.raises(UsageError, match='cannot be read'):
    torch_weights.class_order(tmp_path / 'none.txt', NAMES)
  with pytest.raises(UsageError, match='contains a class twice'):
    torch_weights.class_order(['n01'], ['n01', 'n01'])
