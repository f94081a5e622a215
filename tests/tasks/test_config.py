import json

import pytest

from maxsup_jax import losses, models, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.config import MODELS, READERS
from maxsup_jax.training import config as config_lib


def test_defaults_fill_in():
  config = tasks.resolve({'seed': 3, 'optimizer': {'momentum': 0.5}})
  assert config.seed == 3
  assert config.optimizer.momentum == 0.5
  assert config.optimizer.name == 'sgd'


def test_names_are_those_of_the_tables():
  assert set(config_lib.OBJECTIVES) == losses.OBJECTIVES.keys()
  assert set(MODELS) == models.MODELS.keys()
  assert set(READERS) == models.READERS.keys()


def test_json_round_trip():
  config = tasks.default_config()
  config.objective = {'name': 'ls', 'alpha': 0.2}
  config.model = {'name': 'mlp', 'widths': (4, 2)}
  config.schedule.milestones = ('3 epochs', '4 epochs')
  resolved = tasks.resolve(config)
  again = tasks.resolve(json.loads(config_lib.to_json(resolved)))
  assert again == resolved
  assert config_lib.differences(resolved, again) == []


def test_differences_name_fields_and_ignore_speed():
  a = tasks.resolve({})
  b = tasks.resolve(
    {'seed': 1, 'dataset': {'num_threads': 2, 'name': 'cifar10'}}
  )
  found = config_lib.differences(a, b)
  assert sorted(found) == [
    "config.dataset.name: 'digits' there, 'cifar10' here",
    'config.seed: 0 there, 1 here',
  ]


def test_resolved_is_locked():
  config = tasks.resolve({})
  with pytest.raises(AttributeError):
    config.new_field = 1


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({'lr': 1}, r'unknown field config\.lr; known: .*batch_size'),
    ({'sed': 1}, r"config\.sed; did you mean 'config\.seed'"),
    ({'batch_size': None}, 'config.batch_size is None; expected int'),
    ({'optimizer': {'lr': 1}}, r'config\.optimizer\.lr; known: .*momentum'),
    ({'seed': 1.5}, r'config\.seed is 1\.5 \(float\); expected int'),
    ({'seed': -1}, r'config\.seed is -1'),
    ({'model': 'resnet50'}, r'config\.model is .*expected a mapping'),
    ({'objective': {'alpha': 1}}, r'config\.objective is .*with a name'),
    ({'optimizer': 'sgd'}, r'config\.optimizer is .*expected a mapping of'),
    ({'batch_size': 0}, r'config\.batch_size is 0'),
    ({'eval_batch_size': -3}, r'config\.eval_batch_size is -3'),
    ({'keep_checkpoints': 0}, r'config\.keep_checkpoints is 0'),
    ({'ema_decay': 1.0}, r'config\.ema_decay is 1\.0'),
    ({'batch_norm': 'synced'}, r"config\.batch_norm is 'synced'"),
    ({'dataset': {'std': (1e-20,)}}, r'dataset\.std is 1e-20; .* 0\.001 to 10'),
    ({'dataset': {'workers': 10**5}}, 'dataset.workers is 100000; .*to 256'),
    ({'dataset': {'num_threads': 10**6}}, 'num_threads is 1000000; .*to 1024'),
    ({'dataset': {'mock': 10**12}}, 'mock is 1000000000000; .*to 1048576'),
    (
      {'model': {'name': 'resnet8', 'width': 10**6}},
      r'need 2,384,000\.9 GB',
    ),
    (
      {'model': {'name': 'resnet8', 'width': 'x'}},
      "model: width is 'x'",
    ),
    (
      {'objective': {'name': 'ls', 'alpha': 'x'}},
      "ive: alpha is 'x'",
    ),
    ({'dataset': {'std': ('a',)}}, r'config\.dataset\.std'),
    ({'dataset': {'mean': ('a',)}}, r'config\.dataset\.mean'),
    ({'dataset': {'mean': ()}}, r'config\.dataset\.mean'),
    ({'dataset': {'mean': (float('nan'),)}}, 'expected a finite number'),
    ({'dataset': {'image_size': 0}}, r'config\.dataset\.image_size is 0'),
    ({'optimizer': {'learning_rate': float('inf')}}, 'finite number'),
    ({'optimizer': {'eps': -1.0}}, r'config\.optimizer\.eps is -1'),
    ({'schedule': {'factor': 0.0}}, r'config\.schedule\.factor is 0'),
    ({'schedule': {'end': -0.1}}, r'config\.schedule\.end is -0\.1'),
    ({'seed': 2**32}, 'from 0 to 4294967295'),
    ({'dataset': {'repeats': 0}}, r'config\.dataset\.repeats is 0'),
    ({'dataset': {'mock': 0}}, r'config\.dataset\.mock is 0'),
    ({'dataset': {'imbalance': 0.0}}, r'config\.dataset\.imbalance is 0'),
    ({'dataset': {'imbalance': 50.0}}, 'above 0 and at most 1'),
    ({'mixing': {'cutmix': -1.0}}, r'config\.mixing\.cutmix is -1'),
    ({'mixing': {'switch': 1.5}}, r'config\.mixing\.switch is 1\.5'),
    ({'mixing': {'mode': 'elem'}}, "is 'elem'; expected one of batch, pair"),
    ({'optimizer': {'sam_rho': 0.0}}, r'config\.optimizer\.sam_rho is 0'),
    ({'optimizer': {'clip_value': -1.0}}, r'optimizer\.clip_value is -1'),
    ({'schedule': {'per': 'day'}}, 'expected one of step, epoch'),
    ({'schedule': {'cosine_from': 'end'}}, 'expected one of warmup, start'),
    ({'loss_scale': 0.0}, r'config\.loss_scale is 0'),
    ({'diagnostics_every': 5}, r'config\.diagnostics_every is 5 \(int\)'),
    ([], 'config is a list; expected a mapping of fields'),
  ],
)
def test_refuses_in_one_line(given, message):
  with pytest.raises(UsageError, match=message) as e:
    tasks.build(tasks.resolve(given))
  assert '\n' not in str(e.value)
