"""What is wrong is one line and exit code 2, before anything is written."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import _cli
from maxsup_jax import tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.models import MODELS
from maxsup_jax.tasks import resolve


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config=no_such.py'], "no run card 'no_such.py'"),
    (['--config=configs/digits.py:los=ls'], 'known: loss=maxsup'),
    (['--config=configs/digits.py:loss=mse'], 'known: ce, ls, maxsup'),
    (['--config=configs/digits.py:seed=x'], 'expected int'),
    (['--config.optimizer.lr=1'], 'known: config.optimizer.b1'),
    (['--config.optimizer.learning_rate=fast'], 'could not convert'),
    (['--config.seed=1.5'], 'invalid literal for int'),
    (['--config.model.name=resnet51'], 'resnet50'),
    (['--config.model.patch_size=2'], 'stem'),
    (['--learning_rate=1'], '--workdir'),
    (['stray'], "unexpected argument 'stray'"),
    (['--num_processes=2'], 'belong together'),
    (
      ['--coordinator=here', '--num_processes=1', '--process_id=0'],
      'expected HOST:PORT',
    ),
    (
      ['--coordinator=h:1', '--num_processes=2', '--process_id=2'],
      '--process_id=2: expected from 0',
    ),
    (['--config', 'no_such.py'], "no run card 'no_such.py'"),
    (['--config=configs'], "no run card 'configs'"),
    (['--config.objective.alpha.end=1'], 'known: none below it'),
    (['--config.optimizer.learning_rate=inf'], 'finite number'),
    (['--workdir=/dev/null/run'], 'cannot be written'),
  ],
)
def test_the_command_line(run_program, tmp_path, arguments, message):
  workdir = tmp_path / 'run'
  code, out, err = run_program('train', f'--workdir={workdir}', *arguments)
  assert (code, out) == (2, '')
  assert len(err.strip().splitlines()) == 1, err
  assert err.startswith('error: ')
  assert message in err
  assert not workdir.exists()


def test_evaluate_needs_a_run(run_program, tmp_path):
  broken = tmp_path / 'broken'
  broken.mkdir()
  (broken / 'config.json').write_text('[]')
  for arguments, message in (
    ([], '--workdir is needed'),
    ([f'--workdir={tmp_path}'], 'no config.json'),
    ([f'--workdir={broken}'], 'not a list'),
    ([f'--workdir={broken}', '--out=/dev/null/x'], '--out=/dev/null/x'),
  ):
    code, out, err = run_program('evaluate', *arguments)
    assert (code, out) == (2, '')
    assert message in err
    assert len(err.strip().splitlines()) == 1


VIT = {'name': 'vit_tiny', 'patch_size': 2}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'dataset': {'name': 'no_such_dataset'}}, 'no_such_dataset'),
    ({'dataset': {'train_split': 'validation'}}, 'validation'),
    ({'dataset': {'name': 'cifar10'}}, 'cifar10'),
    ({'dataset': {'image_key': 'picture'}}, 'picture'),
    ({'dataset': {'image_size': 0}}, 'image_size'),
    (
      {'dataset': {'train_transform': 'pad_and_crop(-1)'}},
      r'config\.dataset\.train_transform: .*pad_and_crop',
    ),
    (
      {'dataset': {'eval_transform': 'flip'}},
      r"config\.dataset\.eval_transform is 'flip', which is random",
    ),
    (
      {'dataset': {'eval_transform': 'center_crop(4)'}, 'model': VIT},
      r'gives images of \[4, 4, 1\], train_transform of \[8, 8, 1\]: ',
    ),
    ({'dataset': {'mean': (0.5, 0.5)}}, r'config\.dataset\.mean has 2'),
    ({'dataset': {'workers': -1}}, r'config\.dataset\.workers is -1'),
    ({'model': {'name': 'resnet51'}}, 'resnet50'),
    ({'model': {'name': 'resnet8', 'dtype': 'float8'}}, 'bfloat16'),
    ({'model': {'name': 'resnet8', 'batch_norm_axis': 'x'}}, 'batch_norm'),
    ({'model': {'name': 'vit_tiny', 'patch_size': 3}}, 'patch'),
    ({'objective': {'name': 'mse'}}, 'maxsup'),
    ({'objective': {'name': 'maxsup', 'alpha': -0.1}}, 'alpha'),
    ({'objective': {'name': 'ls', 'alpha': 1.5}}, 'alpha'),
    ({'objective': {'name': 'ls', 'beta': 1}}, 'beta'),
    ({'optimizer': {'name': 'adam'}}, 'adamw'),
    ({'optimizer': {'learning_rate': 0.0}}, 'learning_rate'),
    ({'schedule': {'name': 'sawtooth'}}, 'cosine'),
    ({'schedule': {'milestones': (3,)}}, r'milestones is 3'),
    ({'batch_size': 130}, 'multiple of the 4 devices'),
    ({'batch_size': 2048}, '2048'),
    ({'duration': '0 epochs'}, r'config\.duration'),
    ({'duration': '-1 epochs'}, r'config\.duration'),
    ({'eval_every': '0 steps'}, r'config\.eval_every'),
    ({'diagnostics_every': '0 steps'}, r'config\.diagnostics_every'),
    ({'checkpoint_every': 'never'}, r'config\.checkpoint_every'),
  ],
)
def test_every_section_is_checked_before_anything_compiles(
  data_dir, monkeypatch, changes, message
):
  from jax._src import compiler

  def no_compilation(*_, **__):
    raise AssertionError('something was compiled')

  monkeypatch.setattr(compiler, 'backend_compile_and_load', no_compilation)
  with pytest.raises(UsageError, match=message) as e:
    tasks.build(resolve(changes), data_dir=data_dir)
  assert '\n' not in str(e.value)


def test_help_lists_the_fields_of_the_card(run_program):
  card = '--config=configs/digits.py:loss=ls'
  code, out, _ = run_program('train', card, '--help')
  assert code == 1  # as absl ends after help
  for text in ('--workdir', "objective.name='ls'", 'pad_and_crop(1)'):
    assert text in out


def test_evaluation_needs_no_divisible_batch(data_dir):
  config = resolve({'batch_size': 30})
  with pytest.raises(UsageError, match='multiple of the 4 devices'):
    tasks.build(config, data_dir=data_dir)
  run = tasks.build(config, data_dir=data_dir, training=False)
  assert sum(b['mask'].sum() for b in run.task.eval_batches()) == 355


@pytest.mark.parametrize('name', ['train', 'evaluate', 'extract'])
def test_help_imports_nothing_heavy(name):
  cards = [str(p) for p in Path('configs').glob('[!_]*.py')]
  cards.remove('configs/common.py')
  code = (
    f'import sys, experiments.{name} as program;'
    f'[program._cli.load_card(c) for c in {cards}];'
    "heavy = {'jax', 'flax', 'tensorflow_datasets', 'orbax', 'grain'};"
    'print(heavy & sys.modules.keys())'
  )
  loaded = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout
  assert loaded.strip() == 'set()'


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('def get_config(:\n', 'SyntaxError'),
    ('x = 1\n', 'KeyError'),
    ('import no_such_module\n', 'no_such_module'),
    ('def get_config(arg=None):\n  return None\n', 'NoneType'),
    ('def get_config(arg=None):\n  return 1 / 0\n', 'ZeroDivisionError'),
  ],
)
def test_a_card_that_cannot_be_loaded(tmp_path, text, message):
  card = tmp_path / 'card.py'
  card.write_text(text)
  with pytest.raises(UsageError, match=message):
    _cli.load_card(str(card))


def test_options_that_are_known_without_flax():
  from configs import common

  assert (
    common.model_options('resnet8').items() <= MODELS['resnet8'].options.items()
  )
  assert common.model_options('vit_tiny') is MODELS['vit_tiny'].options
  assert common.model_options('no_such_model') == {}


def test_digits_card_knows_every_loss_and_model(data_dir):
  from configs import common

  get_config = runpy.run_path('configs/digits.py')['get_config']
  cards = [f'loss={loss}' for loss in common.OBJECTIVES]
  cards += [f'loss={loss},alpha=linear' for loss in ('ce', 'ls', 'maxsup')]
  cards += [f'model={model},seed=3' for model in MODELS]
  for card in cards:
    run = tasks.build(resolve(get_config(card)), data_dir=data_dir)
    assert run.total_steps == 30 * (1442 // 64)
