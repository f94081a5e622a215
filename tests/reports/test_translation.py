import json

import pytest
from matplotlib.axes import Axes

from maxsup_jax.errors import UsageError
from maxsup_jax.reports import translation


@pytest.fixture
def curve(tmp_path):
  def write(name, records):
    path = tmp_path / f'{name}.json'
    content = {'workdir': f'runs/{name}', 'temperatures': records}
    path.write_text(json.dumps(content))
    return path

  return write


def record(temperature, bleu=30.0, nll=2.5, ece=0.05):
  return {'temperature': temperature, 'bleu': bleu, 'nll': nll, 'ece': ece}


def test_what_is_drawn(curve, monkeypatch):
  drawn = []
  plot = Axes.plot

  def recorded(self, x, y, **kwargs):
    drawn.append((x, y))
    return plot(self, x, y, **kwargs)

  monkeypatch.setattr(Axes, 'plot', recorded)
  paths = [
    curve('ce', [record(1.2, bleu=31.0), record(0.8, nll=3.0)]),
    curve('_ls', [record(1.0)]),
  ]
  assert translation.temperatures(paths).startswith(b'\x89PNG')
  # In the order of the temperatures, panel by panel.
  assert drawn == [
    ([0.8, 1.2], [30.0, 31.0]),
    ([1.0], [30.0]),
    ([0.8, 1.2], [3.0, 2.5]),
    ([1.0], [2.5]),
    ([0.8, 1.2], [5.0, 5.0]),
    ([1.0], [5.0]),
  ]


def test_ranges_and_the_fitted_temperature_are_drawn(curve, monkeypatch):
  drawn = []
  monkeypatch.setattr(
    Axes,
    'fill_between',
    lambda self, x, low, high, **_: drawn.append(
      (list(x), list(low), list(high))
    ),
  )
  monkeypatch.setattr(
    Axes, 'axvline', lambda self, x, **_: drawn.append((self.get_ylabel(), x))
  )
  ranges = {'nll_interval': [2.0, 3.0], 'ece_calibrated': [0.25, 0.5]}
  path = curve('ce', [record(1.0) | ranges, record(0.5) | ranges])
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | {'fitted': {'temperature': 0.8}}))
  translation.temperatures([path])
  assert drawn == [
    ([0.5, 1.0], [2.0, 2.0], [3.0, 3.0]),
    ('', 0.8),
    ([0.5, 1.0], [25.0, 25.0], [50.0, 50.0]),
  ]


def test_other_files(curve, tmp_path):
  with pytest.raises(UsageError, match='has no bleu'):
    translation.read_curve(curve('without', [record(1.0, bleu=None)]))
  for name, wrong in (
    ('empty', []),
    ('range', [record(1.0) | {'nll_interval': ['a', 1]}]),
  ):
    with pytest.raises(UsageError, match='has no bleu'):
      translation.read_curve(curve(name, wrong))
  with pytest.raises(UsageError, match='cannot be read'):
    translation.read_curve(tmp_path / 'none')
