import fcntl
import threading

import pytest

from maxsup_jax.data import _prepare, digits


@pytest.fixture
def builder(tmp_path):
  return digits.Digits(data_dir=tmp_path, file_format='array_record')


def test_waits_for_who_holds_the_lock(builder, tmp_path):
  (tmp_path / 'digits').mkdir()
  with open(tmp_path / 'digits' / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    thread = threading.Thread(target=_prepare.prepare, args=(builder,))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert not list((tmp_path / 'digits').glob('incomplete.*'))
  thread.join(60)
  assert _prepare.is_prepared(tmp_path / 'digits' / '1.0.0')


def test_accepts_what_another_machine_prepared_meanwhile(
  builder, tmp_path, monkeypatch
):
  def lose_the_race(self):
    (tmp_path / 'digits' / '1.0.0').mkdir()
    (tmp_path / 'digits' / '1.0.0' / 'dataset_info.json').touch()
    raise OSError('Directory not empty')

  monkeypatch.setattr(digits.Digits, 'download_and_prepare', lose_the_race)
  _prepare.prepare(builder)
  assert _prepare.is_prepared(tmp_path / 'digits' / '1.0.0')


def test_a_full_disk_is_refused_and_faults_are_not_hidden(
  builder, monkeypatch, refused
):
  failures = iter([OSError(28, 'No space left on device'), KeyError('image')])

  def fail(self):
    raise next(failures)

  monkeypatch.setattr(digits.Digits, 'download_and_prepare', fail)
  with refused('No space left on device; set data_dir'):
    _prepare.prepare(builder)
  with pytest.raises(KeyError):
    _prepare.prepare(builder)


def test_leaves_an_incomplete_copy_alone(builder, tmp_path, refused):
  directory = tmp_path / 'digits' / '1.0.0'
  directory.mkdir(parents=True)
  (directory / 'features.json').touch()
  with refused('incomplete copy'):
    _prepare.prepare(builder)
  assert (directory / 'features.json').exists()


def test_a_data_dir_that_cannot_be_written(tmp_path, refused):
  (tmp_path / 'file').touch()
  builder = digits.Digits(data_dir=tmp_path / 'file')
  with refused('cannot prepare .* set data_dir or TFDS_DATA_DIR'):
    _prepare.prepare(builder)


def test_a_missing_package(builder, monkeypatch, refused):
  def fail(self):
    raise ImportError('No module named sklearn', name='sklearn')

  monkeypatch.setattr(digits.Digits, 'download_and_prepare', fail)
  with refused("preparing 'digits' needs sklearn"):
    _prepare.prepare(builder)


class TestTrack:
  def test_shows_progress_where_tfds_is_silent(self, monkeypatch, capsys):
    monkeypatch.setattr(_prepare, '_QUIET_SECONDS', 0.0)
    with _prepare._silence():
      print('hidden')
      numbers = _prepare.track(range(3), 'Generating numbers', 'examples')
      assert list(numbers) == [0, 1, 2]
    output, errors = capsys.readouterr()
    assert output == ''
    assert 'Generating numbers' in errors
    assert '0/3' in errors
