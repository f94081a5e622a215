import pytest

from experiments import tables
from maxsup_jax import losses
from maxsup_jax._errors import UsageError


def record(shapes):
  sections = [
    {'batch': b, 'classes': k, 'losses': {'ce': {'ours': row}}}
    for (b, k), row in shapes.items()
  ]
  return {'results': {'shapes': sections}}


@pytest.mark.parametrize(('passes', 'shown'), [(4.04, '4.0'), (None, '-')])
def test_prices_are_filled_in_and_replaced(passes, shown):
  compiled = record(
    {
      tables.SHAPE: {'bytes_ratio': 1.004, 'passes': 8.0},
      tables.TILED_SHAPE: {'bytes_ratio': 2.0, 'passes': passes},
    }
  )
  timed = record({tables.SHAPE: {'ratio_to_baseline': {'median': 1.26}}})
  page = '| `ce` | <!-- price:ce --> |\n| other | 3 |'
  expected = f'| `ce` | <!-- price:ce -->1.00 · {shown} · 1.3 |\n| other | 3 |'
  assert tables.filled(page, compiled, timed) == expected
  assert tables.filled(expected, compiled, timed) == expected


def test_a_record_of_other_shapes_is_refused():
  other = record({(2, 3): {'bytes_ratio': 1.0}})
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
