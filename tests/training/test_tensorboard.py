import pytest

from maxsup_jax.training.tensorboard import Tensorboard

RECORD = {'kind': 'train', 'step': 3, 'nll': 0.5, 'name': 'x'}


def test_writes_numbers_where_tensorboardx_is_installed(tmp_path, monkeypatch):
  tensorboardx = pytest.importorskip('tensorboardX')
  written = []
  monkeypatch.setattr(
    tensorboardx.SummaryWriter,
    'add_scalar',
    lambda self, *arguments: written.append(arguments),
  )
  with Tensorboard(tmp_path, 0) as tensorboard:
    tensorboard.write(RECORD)
    tensorboard.write(
      {'kind': 'eval', 'split': 'test', 'weights': 'raw', 'step': 4, 'ece': 0.1}
    )
  assert written == [
    ('train/nll', 0.5, 3),
    ('eval/test/raw/ece', 0.1, 4),
  ]
  assert list((tmp_path / 'tensorboard').iterdir())


def test_writes_nothing_where_it_is_not(tmp_path, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with Tensorboard(tmp_path, 0) as tensorboard:
    tensorboard.write(RECORD)
  with Tensorboard(tmp_path, 0, enabled=False) as tensorboard:
    tensorboard.write(RECORD)
  assert list(tmp_path.iterdir()) == []
