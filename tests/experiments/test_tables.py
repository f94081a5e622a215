"""The pages have the numbers of the records, which can be read."""

import pytest

from experiments.benchmark import tables
from maxsup_jax import losses
from maxsup_jax.errors import UsageError


def record(shapes):
  sections = [
    {'batch': b, 'classes': k, 'losses': {'ce': {'ours': row}}}
    for (b, k), row in shapes.items()
  ]
  return {'results': {'shapes': sections}}


def test_the_pages_have_the_numbers_of_the_records():
  for path, text in tables.pages().items():
    assert path.read_text() == text, path
  for name in losses.OBJECTIVES:
    assert f'<!-- price:{name} -->' in tables.PAGE.read_text(), name
  for path in tables.RESULTS.glob('*.json'):
    assert f'](../experiments/results/{path.name})' in tables.SPEED.read_text()


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
  assert tables.with_prices(page, compiled, timed) == expected
  assert tables.with_prices(expected, compiled, timed) == expected
  with pytest.raises(UsageError, match='no losses of shape'):
    tables.with_prices('', timed, record({}))


def test_a_table_is_replaced():
  head, end = 'a\n<!-- performance -->\n', '<!-- end of performance -->\nb'
  assert tables.with_table(f'{head}old\n{end}', 'new') == f'{head}new\n{end}'
  for other in ('no table', head):
    with pytest.raises(UsageError, match='no <!-- performance -->'):
      tables.with_table(other, '')
