"""The cards of what is no image: their arguments are not those of images."""

import re

import jax
import pytest

from maxsup_jax import losses, models, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.training.config import fields
from tests.configs.cards import docstring, get_config

# Values of each argument, the default first.
CARDS = {
  'tabular': {
    'data': ('breast_cancer', 'csv:x.csv'),
    'label': ('label', 'y'),
    'logits': ('single', 'two'),
    'smoothing': ('0.4', '0.6'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'imdb': {
    'data': ('imdb', 'phrases'),
    'smoothing': ('0.6', '0.2'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
}


def flat(card, *arg):
  return fields(get_config(card, ','.join(filter(None, arg))).to_dict())


@pytest.mark.parametrize('card', CARDS)
def test_arguments_change_what_they_name(card):
  text = docstring(card)
  for argument, choices in CARDS[card].items():
    found = [flat(card, f'{argument}={choice}') for choice in choices]
    assert found[0] == flat(card)
    assert all(found.count(one) == 1 for one in found)
    assert re.search(rf'^  {argument}={choices[0]}\b', text, re.M)
  for loss in ('ce', 'ls', 'maxsup', 'focal'):
    config = tasks.resolve(get_config(card, f'loss={loss}'))
    tasks.check_names(config)
    losses.make_objective(
      config.objective.to_dict(), num_classes=2, steps_per_epoch=4, epochs=5
    )
  assert flat(card, 'seed=7')['seed'] == 7
  assert len(text.splitlines()) <= 60
  plain = text.replace('\\\n', '')
  for name, arg in re.findall(r'--config=configs/(\w+)\.py:?(\S*)', plain):
    assert name == card
    tasks.resolve(get_config(name, arg))
  with pytest.raises(UsageError, match='no linear schedule'):
    get_config(card, 'loss=focal,alpha=linear')


def test_the_recipe_of_tables_is_that_of_the_paper():
  run = tasks.build(tasks.resolve(get_config('tabular', 'loss=ls')))
  assert (run.steps_per_epoch, run.total_steps) == (456 // 128, 30)
  assert run.config.optimizer.name == 'adamw'
  assert run.config.optimizer.weight_decay == 0
  assert float(run.learning_rate(29)) == pytest.approx(1e-3)
  assert run.config.objective.alpha == 0.4
  shapes = jax.tree.map(lambda x: x.shape, run.shapes.params)
  widths = [shapes[n]['kernel'] for n in ('dense0', 'dense1', 'logit')]
  assert widths == [(30, 120), (120, 60), (60, 1)]
  small = tasks.resolve(get_config('tabular', 'debug=true'))
  assert tasks.build(small).total_steps == 4
  # Their count is in tests/models/test_mlp.py.
  text = docstring('tabular')
  for number in ('46,625', '9,633', 'ce 9.9 / 1.64    ls 9.2 / 2.11'):
    assert number in text
  assert 'ce 11.3 / 2.98   ls 11.5 / 3.56' in text


def test_the_recipe_of_texts_is_that_of_the_paper():
  config = tasks.resolve(get_config('imdb', 'loss=ls'))
  assert (config.duration, config.batch_size) == ('10 epochs', 64)
  assert config.dataset.length == 256
  assert config.optimizer.learning_rate == 1e-3
  assert config.optimizer.weight_decay == 0
  assert config.objective.alpha == 0.6
  options = config.model.to_dict()
  model = models.create_model(options.pop('name'), 2, **options)
  assert (model.dim, model.hidden, model.widths) == (300, 256, (256, 128))
  assert model.dropout == 0.2
  small = tasks.build(tasks.resolve(get_config('imdb', 'debug=true')))
  assert small.total_steps == 4
  # Their count is in tests/models/test_lstm.py.
  for text in ('670,209', 'ce 12.6 / 4.10   ls 12.3 / 4.51'):
    assert text in docstring('imdb')
