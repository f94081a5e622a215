import pytest

from experiments import tables
from maxsup_jax import losses
from maxsup_jax.errors import UsageError


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
  assert tables.with_prices(page, compiled, timed) == expected
  assert tables.with_prices(expected, compiled, timed) == expected


def test_a_record_of_other_shapes_is_refused():
  other = record({(2, 3): {'bytes_ratio': 1.0}})
  with pytest.raises(UsageError, match='no losses of shape'):
    tables.with_prices('', other, other)


def test_the_page_has_the_numbers_of_the_records():
  page = tables.PAGE.read_text()
  records = (
    tables.read('losses-tpu-v5e-compiled.json'),
    tables.read('losses-cpu.json'),
  )
  assert tables.with_prices(page, *records) == page
  for name in losses.OBJECTIVES:
    assert f'<!-- price:{name} -->' in page, name


def test_the_pages_have_the_tables_of_the_records():
  page = tables.README.read_text()
  assert tables.with_table(page, 'performance', tables.performance()) == page
  table = page.split('<!-- performance -->')[1].split('<!-- end of')[0]
  for path in tables.RESULTS.glob('*.json'):
    assert f'](experiments/results/{path.name})' in table
  page = tables.SPEED.read_text()
  assert tables.with_table(page, 'tried', tables.tried()) == page


def test_a_table_is_replaced():
  page = 'a\n<!-- x -->\nold\n<!-- end of x -->\nb'
  filled = tables.with_table(page, 'x', '| new |')
  assert filled == 'a\n<!-- x -->\n| new |\n<!-- end of x -->\nb'
  assert tables.with_table(filled, 'x', '| new |') == filled
  for other in ('no table', 'a\n<!-- x -->\nno end'):
    with pytest.raises(UsageError, match='no <!-- x -->'):
      tables.with_table(other, 'x', '')


def test_what_was_tried_is_told():
  def row(median):
    ratio = {'median': median, 'quartile_1': 0.5, 'quartile_3': 2.0}
    return {'ratio': ratio}

  record = {
    'results': {
      'on_cpu': {
        'options': {'as it is': row(1.0), 'onednn': row(1.234)},
        'pointwise': {'product': row(0.6)},
        'layout': {'NCHW': row(1.1)},
        'unknown': ['magic'],
      }
    }
  }
  assert tables._performance.tried_on_cpu(record).splitlines()[2:] == [
    '| block: as it is | 1.00 (0.50–2.00) |',
    '| block: onednn | 1.23 (0.50–2.00) |',
    '| 1x1 convolution: product | 0.60 (0.50–2.00) |',
    '| 3x3 convolution: NCHW | 1.10 (0.50–2.00) |',
    '| block: magic | not known to it |',
  ]


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
  row = tables._performance.table({'x.json': record}).splitlines()[2]
  assert row == (
    '| training step, resnet50, 64 images of 224x224, bfloat16 | CE 250 ms, '
    'MaxSup 250 ms; over CE: MaxSup 1.004 (0.990–1.020); 42% of the peak '
    'FLOP/s | 4 Big GPU; 8 CPUs, Small CPU; jax 1.2.3 | '
    '[x.json](experiments/results/x.json) |'
  )
