"""Strengths and options that make a recipe, and what decays in it."""

import jax
import pytest

from maxsup_jax.training import run
from tests.configs.cards import get_config


def test_the_strengths_are_those_of_the_papers():
  strengths = {
    ('imagenet_selective', ''): ('ls', 0.2),
    ('cifar_selective', ''): ('ls', 0.2),
    ('cifar_selective', 'loss=maxsup'): ('maxsup', 0.2),
    ('neural_collapse', ''): ('ls', 0.05),
    ('muller', ''): ('ls', 0.1),
    ('muller', 'smoothing=0.45'): ('ls', 0.45),
    ('cifar10_long_tailed', ''): ('maxsup', 0.1),
    ('imagenet_deit', 'loss=regularization_only'): ('regularization_only', 0.1),
  }
  for (card, arg), expected in strengths.items():
    objective = get_config(card, arg).objective
    assert (objective.name, objective.alpha) == expected
  for card in ('imagenet_convnet', 'imagenet_deit', 'cifar100_maxsup'):
    for loss in ('ls', 'maxsup'):
      alpha = get_config(card, f'loss={loss}').objective.alpha
      assert (alpha.begin, alpha.end) == (0.1, 0.2)
      assert alpha.denominator == 'epochs'
  alpha = get_config('imagenet_deit', 'alpha=linear_last').objective.alpha
  assert alpha.denominator == 'epochs-1'


def test_the_logit_penalty_has_the_strength_of_the_authors_code():
  # That of the paper's tables is unknown.
  for card in ('imagenet_convnet', 'cifar100_maxsup'):
    objective = get_config(card, 'loss=logit_penalty').objective
    assert (objective.name, objective.alpha) == ('logit_penalty', 2e-3)


def test_details_that_are_easily_lost():
  config = get_config('muller')
  assert config.loss_scale == 3
  assert config.optimizer.decay_layers == ('local3', 'local4')
  last = get_config('muller', 'decay=last').optimizer.decay_layers
  assert last == ('local4', 'head')
  config = get_config('muller', 'model=resnet56_t2t')
  assert config.optimizer.clip_norm == 1
  assert config.optimizer.clip_decayed
  assert set(config.optimizer.decay) == {'kernel', 'normalization'}
  assert config.optimizer.decay_layers == ()
  config = get_config('imagenet_selective', 'model=vit_small')
  assert config.optimizer.sam_rho == 0.2
  assert not config.optimizer.sam_synced
  assert config.optimizer.clip_value == 1
  assert config.model.head_dropout == 0.1
  assert get_config('imagenet_selective').optimizer.sam_rho is None
  config = get_config('imagenet_deit')
  assert config.ema_decay == 0.99996
  assert config.model.drop_path == 0.1
  assert (config.mixing.mixup, config.mixing.cutmix) == (0, 0)
  assert config.dataset.repeats == 1
  config = get_config('imagenet_deit', 'mix=true,repeats=3')
  assert (config.mixing.mixup, config.mixing.cutmix) == (0.8, 1.0)
  assert config.dataset.repeats == 3
  assert get_config('imagenet_convnet').model.blur_pool
  assert 'blur_pool' not in get_config('imagenet_convnet', 'recipe=b').model
  assert get_config('fine_grained').init_from is None
  assert get_config('neural_collapse').diagnostics_every == '5 epochs'
  # 256 pixels are the central 224/256 of the shorter side.
  assert abs(256 / 293 - 224 / 256) < 0.002


def leaves(tree):
  """The leaves of a tree of parameters, by the names that lead to them."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {tuple(entry.key for entry in path): leaf for path, leaf in flat}


@pytest.mark.parametrize(
  ('card', 'arg', 'rule'),
  [
    (
      'muller',
      '',
      lambda layer, name: layer in ('local3', 'local4') and name == 'kernel',
    ),
    (
      'muller',
      'decay=last',
      lambda layer, name: layer in ('local4', 'head') and name == 'kernel',
    ),
    # Convolutions have no bias: it is the only one beside those of the norms.
    (
      'muller',
      'model=resnet56_t2t',
      lambda layer, name: (layer, name) != ('head', 'bias'),
    ),
    ('imagenet_deit', '', lambda layer, name: name == 'kernel'),
    (
      'imagenet_convnet',
      'model=resnet18',
      lambda layer, name: name == 'kernel',
    ),
    ('imagenet_convnet', 'model=resnet18,recipe=b', lambda layer, name: True),
  ],
)
def test_what_decays_is_what_the_paper_says(
  build, monkeypatch, card, arg, rule
):
  masks = []
  make_optimizer = run.make_optimizer

  def spy(*args, decay_mask, **options):
    masks.append(decay_mask)
    return make_optimizer(*args, decay_mask=decay_mask, **options)

  monkeypatch.setattr(run, 'make_optimizer', spy)
  build(card, arg)
  (mask,) = map(leaves, masks)
  assert mask == {path: rule(path[0], path[-1]) for path in mask}
  assert True in mask.values()
