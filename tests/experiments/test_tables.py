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
  page = 'a\n<!-- x -->\nold\n<!-- end of x -->\nb'
  filled = tables.with_table(page, 'x', '| new |')
  assert filled == 'a\n<!-- x -->\n| new |\n<!-- end of x -->\nb'
  for other in ('no table', 'a\n<!-- x -->\nno end'):
    with pytest.raises(UsageError, match='no <!-- x -->'):
      tables.with_table(other, 'x', '')


def test_a_record_is_told_with_its_spread_and_its_machine():
  def ratio(median, low, high):
    return {'median': median, 'quartile_1': low, 'quartile_3': high}

  step = {'step_seconds': {'median': 0.25}, 'share_of_peak': 0.417}
  record = {
    'suite': 'step',
    'versions': {'jax': '1.2.3'},
    'hardware': {
      'platform': 'gpu',
      'device_kind': 'Big GPU',
      'device_count': 4,
      'host_cpu': 'Small CPU',
      'host_cpu_count': 8,
    },
    'settings': {
      'model': 'resnet50',
      'model_options': {},
      'batch_size': 64,
      'image_size': 224,
      'dtype': 'bfloat16',
    },
    'results': {
      'objectives': {
        'ce': step | {'ratio_to_ce': ratio(1, 1, 1)},
        'maxsup': step | {'ratio_to_ce': ratio(1.0044, 0.99, 1.02)},
      }
    },
  }
  row = tables.performance({'x.json': record}).splitlines()[2]
  assert row == (
    '| training step, resnet50, 64 images of 224x224, bfloat16 | CE 250 ms, '
    'MaxSup 250 ms; over CE: MaxSup 1.004 (0.990–1.020); 42% of the peak '
    'FLOP/s | 4 Big GPU; 8 CPUs, Small CPU; jax 1.2.3 | '
    '[x.json](../experiments/results/x.json) |'
  )
