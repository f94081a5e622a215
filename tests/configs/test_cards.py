"""Every run card gives a configuration that can be built, and its paper's."""

import functools
import json
import re

import jax
import pytest

from configs import common
from maxsup_jax import losses, models
from maxsup_jax.data.preprocessing import parse_transform
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import resolve
from maxsup_jax.training.config import fields
from maxsup_jax.training.schedules import learning_rate_schedule
from tests.configs.cards import (
  CARDS,
  CONFIGS,
  DATASETS,
  SEGMENTATION,
  UNMOCKED,
  BlankSource,
  docstring,
  get_config,
)

# Those of other tasks have tests of their own.
NOT_CARDS = {
  *('__init__', 'common', 'imdb', 'tabular', 'translation'),
  *SEGMENTATION,
}


def arguments(card):
  """The arguments that a card knows, as it lists them itself."""
  with pytest.raises(UsageError, match='known: ') as e:
    get_config(card, 'no_such_argument=1')
  known = str(e.value).partition('known: ')[2]
  return [pair.partition('=')[0] for pair in known.split(', ')]


def values(card):
  """The card with nothing, each value of each argument, and each loss."""
  yield ''
  for argument, choices in CARDS[card].items():
    for choice in choices:
      if (card, argument, choice) == ('imagenet_convnet', 'recipe', 'b'):
        yield 'recipe=b,rate=text'
      # Only two losses have every schedule of alpha; ls is one of them.
      schedule = ',loss=ls' if argument == 'alpha' else ''
      yield f'{argument}={choice}{schedule}'
  for loss in common.OBJECTIVES:
    yield f'loss={loss}'
  yield 'seed=7'


def test_all_cards_are_tested():
  there = {path.stem for path in CONFIGS.glob('*.py')} - NOT_CARDS
  there = {name for name in there if not name.startswith('study_')}
  assert there == set(CARDS)


@pytest.mark.parametrize('card', CARDS)
def test_every_argument_of_a_card_is_tested(card):
  free = {'loss', 'seed', 'debug', 'mock', 'rate', 'dataset'}
  assert set(arguments(card)) - free == set(CARDS[card])
  assert {'loss', 'alpha', 'seed', 'debug'} <= set(arguments(card))
  assert ('mock' in arguments(card)) == (card not in UNMOCKED)


@functools.cache
def check_objective(objective):
  """Cards share most of theirs."""
  losses.make_objective(
    json.loads(objective),
    num_classes=100,
    steps_per_epoch=10,
    epochs=5,
    axis_name='devices',
  )


@functools.cache
def rates(name, schedule, rate, steps_per_epoch):
  """Of the four steps in debug mode."""
  schedule = dict(schedule)
  milestones = map(steps, schedule.pop('milestones'))
  warmup = steps(schedule.pop('warmup'))
  found = learning_rate_schedule(
    name,
    rate,
    total_steps=4,
    warmup_steps=warmup,
    milestones=[*milestones],
    steps_per_epoch=steps_per_epoch,
    **schedule,
  )
  return [float(found(step)) for step in range(4)]


def check_rate_moves(config):
  name, schedule = config.schedule.name, config.schedule.to_dict()
  assert schedule.pop('name') in ('cosine', 'step', 'exponential')
  # Mock examples are as many as two batches or more.
  steps_per_epoch = (config.dataset.mock or 64) // config.batch_size
  given = tuple(schedule.items()), config.optimizer.learning_rate
  count = len(set(rates(name, *given, steps_per_epoch)))
  if name == 'step':
    # Each of its values: in the warm-up, at the peak, after each milestone.
    assert count == 1 + steps(schedule['warmup']) + len(schedule['milestones'])
  elif name == 'cosine':
    assert count >= 3
  else:
    assert count == 2 + steps(schedule['warmup'])


@pytest.mark.parametrize('debug', ['', 'debug=true'])
@pytest.mark.parametrize('card', CARDS)
def test_every_argument_gives_a_configuration(card, debug):
  for arg in values(card):
    config = resolve(get_config(card, ','.join(filter(None, (arg, debug)))))
    check_objective(json.dumps(config.objective.to_dict()))
    for transform in ('train_transform', 'eval_transform'):
      parse_transform(
        config.dataset[transform],
        mean=config.dataset.mean,
        std=config.dataset.std,
      )
    assert config.model.name in models.MODELS
    mocked = bool(debug) and card not in UNMOCKED
    assert (config.dataset.mock is not None) == mocked
    if debug:
      check_rate_moves(config)


# What an argument is for, where not everything has a use for it.
ONLY_WITH = {'alpha': 'loss=ls', 'synced': 'model=vit_small'}


@pytest.mark.parametrize('card', CARDS)
def test_arguments_change_what_they_name(card):
  """No argument is read and then forgotten; the first value is the default."""

  def flat(*arg):
    return fields(get_config(card, ','.join(filter(None, arg))).to_dict())

  for argument, choices in CARDS[card].items():
    rest = ONLY_WITH.get(argument, '')
    configs = [flat(rest, f'{argument}={choice}') for choice in choices]
    assert configs[0] == flat(rest)
    for i, config in enumerate(configs):
      same = [choices[k] for k, other in enumerate(configs) if other == config]
      # For label smoothing 'paper' is another word for 'linear'.
      assert same == [choices[i]] or set(same) == {'paper', 'linear'}
  assert flat('seed=7')['seed'] == 7
  assert flat('loss=ce')['objective.name'] == 'ce'


@pytest.mark.parametrize(
  ('card', 'arg', 'message'),
  [
    ('imagenet_convnet', 'recipe=c', "'recipe=c' .* expected a, b"),
    ('imagenet_convnet', 'model=vit_small', 'expected resnet50, resnet18'),
    ('imagenet_convnet', 'rate=text', 'for the ResNets in recipe b'),
    (
      'imagenet_convnet',
      'recipe=b,model=mobilenet_v2,rate=text',
      'for the ResNets in recipe b',
    ),
    ('imagenet_deit', 'repeats=2', 'expected 1, 3'),
    ('imagenet_deit', 'loss=focal,alpha=linear', 'no linear schedule'),
    ('imagenet_selective', 'loss=focal,smoothing=0.3', 'has no effect'),
    ('cifar_selective', 'data=svhn', 'expected cifar10, cifar100'),
    ('cifar100_maxsup', 'loss=mse', "unknown loss 'mse'"),
    ('cifar10_long_tailed', 'imbalance=20', 'expected 100, 50, 10'),
    ('cifar10_corruptions', 'alpha=cosine', 'expected paper, constant, linear'),
    ('muller', 'alpha=paper', 'expected constant, linear, linear_last'),
    ('neural_collapse', 'data=tiny_imagenet', 'needs dataset=DIR'),
    (
      'neural_collapse',
      'data=tiny_imagenet,debug=true,mock=false',
      'needs dataset=DIR',
    ),
    ('neural_collapse', 'dataset=/tiny', 'is for data=tiny_imagenet'),
    ('muller', 'model=resnet56_t2t,decay=last', 'is for model=alexnet_cifar'),
    ('fine_grained', 'data=flowers', 'expected cub, cars'),
    ('glyphs', 'alpha=paper', 'expected constant, linear, linear_last'),
    ('glyphs', 'difficulty=none', 'expected medium, easy, hard'),
    ('glyphs', 'debug=true,mock=true', "unknown argument 'mock=true'"),
  ],
)
def test_wrong_arguments_are_refused_in_one_line(card, arg, message):
  with pytest.raises(UsageError, match=message) as e:
    get_config(card, arg)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('card', CARDS)
def test_docstrings_have_the_command_the_paper_and_the_arguments(card):
  text = docstring(card)
  assert f'--config=configs/{card}.py' in text
  assert 'debug' in text
  if card not in ('digits', 'glyphs'):  # These are of no paper.
    assert re.search(r'arXiv( |\n)?\d{4}\.\d{5}', text)
    assert re.search(r'unknown', text)
  if card != 'digits':
    assert f'configs/{card}.py:debug=true' in text
  for argument in arguments(card):
    assert re.search(rf'\b{argument}=', text), argument
  assert len(text.splitlines()) <= 60
  # The defaults that it shows are the defaults.
  for argument, shown in re.findall(r'^  (\w+)=(\w+)  ', text, re.MULTILINE):
    assert argument in arguments(card)
    if card != 'neural_collapse' or argument != 'dataset':
      get_config(card, f'{argument}={shown}')
      assert fields(
        get_config(card, f'{argument}={shown}').to_dict()
      ) == fields(get_config(card).to_dict())


@pytest.mark.parametrize('card', CARDS)
def test_commands_in_docstrings_can_be_read(card):
  text = docstring(card).replace('\\\n', '')
  commands = re.findall(r'--config=configs/(\w+)\.py:?(\S*)', text)
  assert commands
  for name, arg in commands:
    resolve(get_config(name, arg))


# What debug may change; nothing else.
SHRUNK = {
  'batch_size',
  'eval_batch_size',
  'duration',
  'log_every',
  'eval_every',
  'checkpoint_every',
  'diagnostics_every',
  'dataset.train_transform',
  'dataset.eval_transform',
  'dataset.mock',
  'model.dtype',
  'schedule.warmup',
  'schedule.milestones',
  'schedule.per',
}


@pytest.mark.parametrize('card', CARDS)
def test_debug_keeps_what_makes_the_recipe(card):
  for arg in values(card):
    unmocked = 'debug=true' + (',mock=false' if card not in UNMOCKED else '')
    full, small, real = (
      fields(get_config(card, f'{arg},{debug}'.strip(',')).to_dict())
      for debug in ('', 'debug=true', unmocked)
    )
    changed = {field for field in full if full[field] != small[field]}
    if card == 'glyphs':  # As many as it is told, and of that size.
      changed -= {'dataset.name', 'model.patch_size'}
    if 'tiny_imagenet' in arg:
      changed.remove('dataset.name')
      assert real['dataset.name'] == '/tiny'
    assert changed <= SHRUNK
    assert len(small['schedule.milestones']) == len(full['schedule.milestones'])
    warms_up = not full['schedule.warmup'].startswith('0 ')
    assert small['schedule.warmup'] == f'{int(warms_up)} steps'
    # The operations are the same ones, on fewer pixels.
    for field in ('dataset.train_transform', 'dataset.eval_transform'):
      operations = re.findall(r'[a-z_]+(?=\(| \||$)', full[field])
      assert [
        o
        for o in re.findall(r'[a-z_]+(?=\(| \||$)', small[field])
        if o != 'resize' or card != 'neural_collapse'
      ] == operations
    assert real['dataset.mock'] is None
    assert {f for f in small if small[f] != real[f]} <= {
      'dataset.mock',
      'dataset.name',
    }


def steps(text):
  number, unit = text.split()
  assert unit == 'steps'
  return int(number)


def test_debug_draws_few_glyphs_unless_told():
  name = get_config('glyphs', 'debug=true').dataset.name
  assert name == 'glyphs/26x64x32_16_medium'
  name = get_config('glyphs', 'debug=true,test=100,size=24').dataset.name
  assert name == 'glyphs/26x64x100_24_medium'
  # Also where they are what the full run has.
  arg = 'train=10000,debug=true,test=10000,size=32'
  config = get_config('glyphs', arg)
  assert config.dataset.name == get_config('glyphs').dataset.name
  assert config.dataset.train_transform == 'pad_and_crop(2)'
  assert config.duration == '4 steps'


def test_kinds_of_models_see_small_images():
  """All of them, on even smaller ones: tests/experiments/test_usage.py."""
  for name in ('resnet18', 'mobilenet_v2', 'vit_tiny', 'alexnet_cifar'):
    config = get_config('glyphs', f'model={name},debug=true')
    model = models.create_model(num_classes=10, **config.model)
    images = jax.ShapeDtypeStruct((2, 16, 16, 1), 'float32')
    logits, _ = jax.eval_shape(
      lambda images, model=model: model.init_with_output(
        jax.random.key(0), images
      )[0],
      images,
    )
    assert logits.shape == (2, 10)


def test_sources_have_the_form_of_their_datasets():
  source = BlankSource('cifar10', 'train[40000:]')
  assert (len(source), source.num_classes) == (10000, 10)
  assert BlankSource('imagenet2012', 'validation').image_shape is None
  assert set(DATASETS) >= {get_config(card).dataset.name for card in CARDS}
