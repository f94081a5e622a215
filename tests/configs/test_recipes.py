"""The runs that the cards describe are those of their papers."""

import pytest

from configs import common
from maxsup_jax import models
from maxsup_jax.tasks import building
from tests.configs.cards import cosine, docstring

ALL = common.EVERYTHING
# Card and arguments; parameters; steps in an epoch and epochs; batch, decay and
# what decays; momentum, if it is plain (+) or Nesterov (-); rates by epoch.
RECIPES = [
  (
    ('imagenet_convnet', ''),
    25557032,
    (625, 200),
    (2048, 1e-4, ('kernel',)),
    (0.9, False),
    {0: 0.85, 100: 0.425, 150: cosine(0.85, 150, 200)},
  ),
  (
    ('imagenet_convnet', 'model=resnet101,recipe=b'),
    44549160,
    (625, 90),
    (2048, 1e-4, ALL),
    (0.9, False),
    {0: 0.8, 29: 0.8, 30: 0.08, 60: 0.008, 89: 0.008},
  ),
  (
    ('imagenet_convnet', 'model=resnet18,recipe=b,rate=text'),
    11689512,
    (2502, 90),
    (512, 1e-4, ALL),
    (0.9, False),
    {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001},
  ),
  (
    ('imagenet_convnet', 'model=mobilenet_v2,recipe=b'),
    3504872,
    (625, 300),
    (2048, 4e-5, ALL),
    (0.9, False),
    {0: 0.36, 1: 0.3528, 100: 0.36 * 0.98**100, 299: 0.36 * 0.98**299},
  ),
  (
    ('imagenet_deit', ''),
    22050664,
    (1251, 300),
    (1024, 0.05, ('kernel',)),
    None,
    {
      0: 1e-6,
      1: 1e-6 + (1e-3 - 1e-6) / 5,
      4: 1e-6 + (1e-3 - 1e-6) * 4 / 5,
      5: cosine(1e-3, 5, 300, 1e-5),
      150: 5.05e-4,
      299: cosine(1e-3, 299, 300, 1e-5),
    },
  ),
  (
    ('imagenet_selective', ''),
    25557032,
    (1251, 120),
    (1024, 1e-4, ALL),
    (0.9, False),
    {
      0: 4e-5,
      1: 4e-5 + (0.4 - 4e-5) / 5,
      5: 0.4,
      62: cosine(0.4, 57, 115),
      119: cosine(0.4, 114, 115),
    },
  ),
  (
    ('imagenet_selective', 'model=vit_small'),
    22050664,
    (625, 300),
    (2048, 0.3, ALL),
    None,
    {0: 3e-7, 15: 3e-3, 299: cosine(3e-3, 284, 285)},
  ),
  (
    ('cifar_selective', ''),
    272474,
    (390, 75),
    (128, 5e-4, ALL),
    (0.9, False),
    {0: 0.1, 24: 0.1, 25: 0.01, 50: 0.001},
  ),
  (
    ('cifar_selective', 'data=cifar100,held_out=true'),
    800032,
    (703, 300),
    (64, 1e-4, ALL),
    (0.9, True),
    {149: 0.1, 150: 0.01, 225: 0.001},
  ),
  (
    ('cifar100_maxsup', ''),
    11220132,
    (390, 200),
    (128, 5e-4, ALL),
    (0.9, True),
    {0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008, 199: 0.0008},
  ),
  (
    ('cifar100_maxsup', 'model=mobilenet_v2,nesterov=false'),
    3504872 - 900 * 1281,
    (390, 200),
    (128, 5e-4, ALL),
    (0.9, False),
    {0: 0.1, 59: 0.1},
  ),
  (
    ('cifar10_long_tailed', ''),
    537488 + 1280,
    (12406 // 256, 200),
    (256, 5e-4, ALL),
    (0.9, False),
    {
      0: 0.2 * (4 / 5 / 3 + 1 / 5),
      1: 0.2 * (3 / 5 / 3 + 2 / 5),
      3: 0.2 * (1 / 5 / 3 + 4 / 5),
      4: 0.2,
      119: 0.2,
      120: 2e-3,
      160: 2e-5,
    },
  ),
  (
    ('cifar10_long_tailed', 'imbalance=50,head=linear'),
    537488 + 1290,
    (13996 // 256, 200),
    (256, 5e-4, ALL),
    (0.9, False),
    {4: 0.2},
  ),
  (
    ('cifar10_corruptions', ''),
    23520842,
    (390, 200),
    (128, 5e-4, ALL),
    (0.9, False),
    {0: 0.01, 100: 0.005, 199: cosine(0.01, 199, 200)},
  ),
  (
    ('neural_collapse', ''),
    11173962,
    (390, 800),
    (128, 5e-4, ALL),
    (0.9, False),
    {0: 0.05, 149: 0.05, 150: 0.005, 799: 0.005},
  ),
  (
    ('neural_collapse', 'data=stl10,schedule=v1'),
    23520842,
    (78, 800),
    (64, 5e-4, ALL),
    (0.9, False),
    {149: 0.05, 150: 0.005, 350: 0.0005},
  ),
  (
    ('neural_collapse', 'data=tiny_imagenet,dataset=/tiny,schedule=v1'),
    23910152,
    (1562, 300),
    (64, 5e-4, ALL),
    (0.9, False),
    {149: 0.05, 299: 0.005},
  ),
  (
    ('muller', 'data=imagenet2012'),
    42679816,
    (312, 200),
    (4096, 8e-5, ('kernel',)),
    (0.9, True),
    {0: 0.0, 5: 1.6, 6: 1.6 * 0.975},
  ),
  (
    ('muller', ''),
    1068298,
    (312, 1250),
    (128, 0.04, ('kernel',)),
    (0.0, False),
    {0: 0.1, 416: 0.1, 417: 0.01, 834: 0.001},
  ),
  (
    ('fine_grained', ''),
    23917832,
    (93, 100),
    (64, 5e-4, ALL),
    (0.9, False),
    {0: 0.01, 50: 0.005},
  ),
  (
    ('fine_grained', 'data=cars'),
    23909636,
    (127, 100),
    (64, 5e-4, ALL),
    (0.9, False),
    {0: 0.01},
  ),
]


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
  """What decays, and that sizes fit, is seen in `test_card_details`."""
  monkeypatch.setattr(models, 'decay_mask', lambda *_: None)
  monkeypatch.setattr(building, '_check_sizes', lambda run: None)


@pytest.mark.parametrize(
  ('card', 'parameters', 'length', 'batch', 'momentum', 'rates'),
  RECIPES,
  ids=[':'.join(filter(None, recipe[0])) for recipe in RECIPES],
)
def test_recipes_are_those_of_the_papers(
  build, card, parameters, length, batch, momentum, rates
):
  run = build(*card)
  config = run.config
  assert -(-run.total_steps // run.steps_per_epoch) == length[1]
  assert run.steps_per_epoch == length[0]
  assert config.batch_size == batch[0]
  assert config.optimizer.weight_decay == batch[1]
  assert set(config.optimizer.decay) == set(batch[2])
  if momentum is None:
    assert config.optimizer.name == 'adamw'
    assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.999)
  else:
    assert config.optimizer.name == 'sgd'
    assert (config.optimizer.momentum, config.optimizer.nesterov) == momentum
  for epoch, rate in rates.items():
    first = epoch * run.steps_per_epoch
    # A float32 cosine near its end loses digits.
    assert float(run.learning_rate(first)) == pytest.approx(
      rate, rel=1e-4, abs=1e-6 * max(rates.values())
    ), epoch
    if config.schedule.per == 'epoch':
      last = first + run.steps_per_epoch - 1
      assert run.learning_rate(last) == run.learning_rate(first)
  assert models.count_parameters(run.shapes.params) == parameters


def test_long_tailed_classes_have_the_counts_of_the_paper(build):
  expected = {
    '100': [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    '50': [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    '10': [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
  }
  text = docstring('cifar10_long_tailed')
  for imbalance, counts in expected.items():
    run = build('cifar10_long_tailed', f'imbalance={imbalance}')
    assert list(run.task.train_source.counts) == counts
    assert len(run.task.eval_source) == 10000
    assert f'{imbalance}:'.ljust(5) + ' '.join(map(str, counts)) in text
