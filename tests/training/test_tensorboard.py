import pytest

from maxsup_jax.training.tensorboard import Tensorboard

RECORD = {'kind': 'train', 'step': 3, 'nll': 0.5, 'name': 'x'}


def _events(directory):
  loader = pytest.importorskip('tensorboardX.proto.event_pb2')
  (path,) = directory.iterdir()
  data, at = path.read_bytes(), 0
  while at < len(data):
    length = int.from_bytes(data[at : at + 8], 'little')
    yield loader.Event.FromString(data[at + 12 : at + 12 + length])
    at += 16 + length


def test_writes_numbers_where_tensorboardx_is_installed(tmp_path):
  pytest.importorskip('tensorboardX')
  with Tensorboard(tmp_path, 2) as tensorboard:
    tensorboard.write(RECORD)
    tensorboard.write(
      {'kind': 'eval', 'split': 'test', 'weights': 'raw', 'step': 4, 'ece': 0.1}
    )
  version, start, *scalars = _events(tmp_path / 'tensorboard')
  assert version.file_version == 'brain.Event:2'
  # TensorBoard hides what an earlier start wrote from this step on.
  assert (start.session_log.status, start.step) == (1, 3)
  assert [
    (e.summary.value[0].tag, e.summary.value[0].simple_value, e.step)
    for e in scalars
  ] == [
    ('train/nll', 0.5, 3),
    ('eval/test/raw/ece', pytest.approx(0.1), 4),
  ]


def test_a_full_disk_costs_the_events_alone(tmp_path):
  pytest.importorskip('tensorboardX')
  with Tensorboard(tmp_path, 0) as tensorboard:
    records = tensorboard._writer._py_recordio_writer
    records.close()
    records._writer = open('/dev/full', 'wb')  # noqa: SIM115
    with pytest.warns(UserWarning, match='no space is left .* metrics.jsonl'):
      tensorboard.write(RECORD)
    tensorboard.write(RECORD)


def test_writes_nothing_where_it_is_not(tmp_path, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with Tensorboard(tmp_path, 0) as tensorboard:
    tensorboard.write(RECORD)
  with Tensorboard(tmp_path, 0, enabled=False) as tensorboard:
    tensorboard.write(RECORD)
  assert list(tmp_path.iterdir()) == []
