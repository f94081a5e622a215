"""The arguments of the cards, the objectives they stand for, and debug."""

import pytest

from configs import common
from maxsup_jax import losses, models
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import default_config, resolve


def test_arguments_are_read_as_the_type_of_their_default():
  args = common.parse_arg(
    'seed=3,mix=TRUE,rate=.5,name=x,head=b,times=3',
    seed=0,
    mix=False,
    rate=1.0,
    name='',
    head=('a', 'b'),
    times=(1, 3),
  )
  assert args.to_dict() == {
    'seed': 3,
    'mix': True,
    'rate': 0.5,
    'name': 'x',
    'head': 'b',
    'times': 3,
  }


@pytest.mark.parametrize('arg', [None, ''])
def test_without_arguments_the_defaults_hold(arg):
  args = common.parse_arg(arg, seed=1, mix=False, head=('a', 'b'))
  assert args.to_dict() == {'seed': 1, 'mix': False, 'head': 'a'}


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    (
      'loss=ls',
      "unknown argument 'loss=ls' .* known: seed=0, mix=false, head=a|b",
    ),
    ('seed', "unknown argument 'seed'"),
    ('seed=one', "'seed=one' .* expected int$"),
    ('mix=1', "'mix=1' .* expected true, false$"),
    ('head=c', "'head=c' .* expected a, b$"),
    ('seed=1,seed=2', "'seed' is given twice"),
  ],
)
def test_wrong_arguments_are_refused_in_one_line(arg, message):
  with pytest.raises(UsageError, match=message) as e:
    common.parse_arg(arg, seed=0, mix=False, head=('a', 'b'))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('schedule', common.ALPHAS)
@pytest.mark.parametrize('loss', common.OBJECTIVES)
def test_every_loss_has_every_schedule_or_says_why_not(loss, schedule):
  if schedule.startswith('linear') and loss not in (*common.SMOOTHED, 'ce'):
    with pytest.raises(UsageError, match='has no linear schedule') as e:
      common.objective(loss, schedule)
    assert '\n' not in str(e.value)
    return
  config = common.objective(loss, schedule)
  objective = losses.make_objective(
    config, num_classes=10, steps_per_epoch=5, epochs=4, axis_name=None
  )
  assert objective.init is not None


def last_epochs_alpha(schedule, loss='maxsup'):
  config = common.objective(loss, schedule)['alpha']
  if isinstance(config, float):
    return config
  assert config.pop('schedule') == 'linear'
  alpha = losses.linear_alpha(**config, epochs=300, steps_per_epoch=7)
  assert float(alpha(0)) == pytest.approx(0.1)
  return float(alpha(7 * 300 - 1))


def test_the_schedules_are_those_of_the_paper_and_of_its_code():
  assert last_epochs_alpha('constant') == 0.1
  assert last_epochs_alpha('linear') == pytest.approx(0.1 + 0.1 * 299 / 300)
  assert last_epochs_alpha('linear_last') == pytest.approx(0.2, abs=1e-7)
  for loss in ('ls', 'maxsup'):
    assert last_epochs_alpha('paper', loss) == last_epochs_alpha('linear')
  # The rows of its Table 1, and what others published, are not scheduled.
  for loss in ('regularization_only', 'zipf', 'ols'):
    assert last_epochs_alpha('paper', loss) == common.OBJECTIVES[loss]['alpha']


def test_smoothing_is_the_alpha_of_what_smooths():
  for loss in common.SMOOTHED:
    assert common.objective(loss, smoothing=0.3)['alpha'] == 0.3
  for loss in set(common.OBJECTIVES) - set(common.SMOOTHED):
    config = common.objective(loss, smoothing=0.3, usual=0.3)
    assert config == common.OBJECTIVES[loss]


@pytest.mark.parametrize(
  ('loss', 'schedule'),
  [
    ('focal', 'constant'),
    ('ce', 'constant'),
    ('ls', 'linear'),
    ('nls', 'paper'),
  ],
)
def test_smoothing_that_has_no_effect_is_refused(loss, schedule):
  with pytest.raises(UsageError, match='has no effect on loss') as e:
    common.objective(loss, schedule, smoothing=0.3, usual=0.2)
  assert '\n' not in str(e.value)


def test_objectives_are_not_changed_by_who_uses_them():
  before = {name: dict(config) for name, config in common.OBJECTIVES.items()}
  common.objective('ls', 'linear')['alpha']['end'] = 7
  common.objective('maxsup', smoothing=0.7)
  assert before == common.OBJECTIVES


def test_everything_is_every_kind_of_parameter():
  assert set(common.EVERYTHING) == set(models.PARAMETER_KINDS)


def test_debug_puts_the_schedule_into_its_few_steps():
  config = default_config()
  config.schedule.warmup = '5 epochs'
  config.schedule.milestones = ('30 epochs', '60 epochs')
  config.schedule.per = 'epoch'
  config = resolve(common.debug(config))
  assert config.schedule.per == 'step'
  assert config.duration == '4 steps'
  assert config.schedule.warmup == '1 steps'
  assert config.schedule.milestones == ('2 steps', '3 steps')
  assert config.diagnostics_every is None
  assert config.dataset.mock == 32
  # Enough for two steps in an epoch, and even on eight devices.
  assert config.dataset.mock == 2 * config.batch_size
  assert config.batch_size % 16 == 0


def test_debug_without_a_warmup_invents_none():
  config = default_config()
  config.schedule.milestones = ('60 epochs', '120 epochs', '160 epochs')
  config.diagnostics_every = '5 epochs'
  config = resolve(common.debug(config, mock=False))
  assert config.schedule.warmup == '0 steps'
  assert config.schedule.milestones == ('1 steps', '2 steps', '3 steps')
  assert config.diagnostics_every == '4 steps'
  assert config.dataset.mock is None
