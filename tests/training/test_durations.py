import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.training.durations import to_steps

KWARGS = {'batch_size': 128, 'steps_per_epoch': 11, 'field': 'duration'}


@pytest.mark.parametrize(
  ('duration', 'steps'),
  [
    ('1 step', 1),
    ('250 steps', 250),
    ('3 epochs', 33),
    ('0.5 epoch', 6),
    ('1280 examples', 10),
    (' 2epochs ', 22),
  ],
)
def test_reads_number_and_unit(duration, steps):
  assert to_steps(duration, **KWARGS) == steps


@pytest.mark.parametrize(
  'duration',
  ['', '3', '3 weeks', 'epochs', '-1 epochs', '1e3 steps', 3, None, '0 steps'],
)
def test_refuses_in_one_line_that_names_the_field(duration):
  with pytest.raises(UsageError, match=r'config\.duration is .*expected') as e:
    to_steps(duration, **KWARGS)
  assert '\n' not in str(e.value)


def test_rounding_to_nothing_is_refused():
  with pytest.raises(UsageError, match=r'0\.007'):
    to_steps('1 example', **KWARGS)


def test_more_steps_than_can_be_counted_are_refused():
  with pytest.raises(UsageError, match='32 bits'):
    to_steps('999999999999 epochs', **KWARGS)


def test_zero_where_zero_makes_sense():
  assert to_steps('0 epochs', **KWARGS, minimum=0) == 0
