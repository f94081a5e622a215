"""Every card of a study gives one that can be run, and says how."""

import importlib
from pathlib import Path

import pytest

from maxsup_jax import tasks
from maxsup_jax.errors import UsageError
from tests.configs.cards import CONFIGS

CARDS = sorted(p.stem for p in CONFIGS.glob('study_*.py'))


def get_study(card, arg=None):
  return importlib.import_module(f'configs.{card}').get_study(arg)


@pytest.mark.parametrize('card', CARDS)
def test_a_card_gives_a_study_whose_claims_are_of_its_variants(card):
  study, small = get_study(card), get_study(card, 'debug=true')
  assert len(study.claims) >= 15
  assert len(small.seeds) == 2 < len(study.seeds)
  assert small.variants.keys() == study.variants.keys()
  assert f'--config=configs/{card}.py' in (CONFIGS / f'{card}.py').read_text()
  for run in (study.runs()[0], small.runs()[-1]):
    (small if run.seed else study).config(run, Path('runs'))
  with pytest.raises(UsageError, match='unknown argument'):
    get_study(card, 'loss=ce')


@pytest.mark.parametrize('card', CARDS)
def test_a_debug_variant_can_be_built(card, data_dir):
  study = get_study(card, 'debug=true')
  first = next(iter(study.variants.values()))
  tasks.build(tasks.resolve(first), data_dir=data_dir)
