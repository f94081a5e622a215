"""Every card trains for a few steps, with no dataset there."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from maxsup_jax import tasks
from maxsup_jax.tasks import resolve
from maxsup_jax.training import loop
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.workdir import Workdir
from tests.configs.cards import CARDS, get_config

pytestmark = pytest.mark.slow

# Every card as it is, every model of each, and what takes another way through
# the step.
RUNS = [
  *((card, '') for card in CARDS),
  ('imagenet_convnet', 'model=resnet18,recipe=b,loss=ols'),
  ('imagenet_convnet', 'model=resnet101,loss=zipf_votes'),
  ('imagenet_convnet', 'model=mobilenet_v2,recipe=b'),
  ('imagenet_deit', 'mix=true,repeats=3,loss=ls'),
  ('imagenet_selective', 'model=vit_small'),
  ('imagenet_selective', 'model=vit_small,synced=true,loss=ce'),
  ('cifar_selective', 'data=cifar100,held_out=true'),
  ('cifar100_maxsup', 'model=mobilenet_v2,loss=logit_penalty'),
  ('cifar10_long_tailed', 'head=linear,imbalance=10,loss=focal'),
  ('neural_collapse', 'data=stl10,augment=pc'),
  ('neural_collapse', 'data=tiny_imagenet'),
  ('muller', 'data=cifar100,model=resnet56_t2t'),
  ('fine_grained', 'data=cars'),
  ('digits', 'model=vit_tiny'),
]
# These depend on how the batch is spread.
SPREAD = [
  ('imagenet_deit', 'mix=true,repeats=3'),
  ('imagenet_selective', 'model=vit_small'),
  ('cifar10_long_tailed', ''),
]


def check(card, arg, path, devices):
  arg = ','.join(filter(None, (arg, 'debug=true')))
  run = tasks.build(
    resolve(get_config(card, arg)),
    data_dir=path / 'data',
    devices=Devices(jax.devices()[:devices]),
  )
  assert run.total_steps == 4
  records = loop.train(run, Workdir(path / 'run'))
  lines = (path / 'run' / 'metrics.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  trained = [line for line in lines if line['kind'] == 'train']
  assert [line['step'] for line in trained] == [1, 2, 3, 4]
  assert all(np.isfinite(line['objective']) for line in trained)
  assert [record['weights'] for record in records] == list(run.weights)
  assert all(np.isfinite(record['nll']) for record in records)
  diagnosed = {line['split'] for line in lines if line['kind'] == 'diagnostics'}
  assert bool(diagnosed) == (card == 'neural_collapse')
  # Up to half a gigabyte each.
  shutil.rmtree(path / 'run')


@pytest.mark.parametrize(('card', 'arg'), RUNS)
def test_trains_for_a_few_steps(card, arg, tmp_path, cached_compilation):
  check(card, arg, tmp_path, devices=1)


@pytest.mark.parametrize(('card', 'arg'), SPREAD)
def test_trains_on_several_devices(card, arg, tmp_path, cached_compilation):
  check(card, arg, tmp_path, devices=4)


def test_the_command_of_a_docstring_runs(tmp_path):
  root = pathlib.Path(__file__).parents[2]
  result = subprocess.run(
    [
      sys.executable,
      '-m',
      'experiments.train',
      '--config=configs/muller.py:debug=true',
      f'--workdir={tmp_path / "run"}',
      f'--data_dir={tmp_path / "data"}',
    ],
    cwd=root,
    env={**os.environ, 'PYTHONPATH': str(root)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  assert 'work directory' in result.stdout
