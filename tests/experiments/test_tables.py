import pytest

from experiments import tables
from maxsup_jax import losses
from maxsup_jax._errors import UsageError


def record(field, value, shape=tables.SHAPE):
  row = {'ours': {'bytes_ratio': None, 'ratio_to_baseline': None}}
  row['ours'][field] = value
  batch, classes = shape
  section = {'batch': batch, 'classes': classes, 'losses': {'ce': row}}
  return {'results': {'shapes': [section]}}


def test_prices_are_filled_in_and_replaced():
  compiled = record('bytes_ratio', 1.004)
  timed = record('ratio_to_baseline', {'median': 1.26})
  page = '| `ce` | <!-- price:ce --> |\n| other | 3 |'
  expected = '| `ce` | <!-- price:ce -->1.00 · 1.3 |\n| other | 3 |'
  assert tables.filled(page, compiled, timed) == expected
  assert tables.filled(expected, compiled, timed) == expected


def test_a_record_of_other_shapes_is_refused():
  other = record('bytes_ratio', 1.0, shape=(2, 3))
  with pytest.raises(UsageError, match='no losses of shape'):
    tables.filled('', other, other)


def test_the_page_has_the_numbers_of_the_records():
  page = tables.PAGE.read_text()
  records = (
    tables.read('losses-tpu-v5e-compiled.json'),
    tables.read('losses-cpu.json'),
  )
  assert tables.filled(page, *records) == page
  for name in losses.OBJECTIVES:
    assert f'<!-- price:{name} -->' in page, name
