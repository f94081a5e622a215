"""What is wrong is one line and exit code 2, before anything is written."""

import runpy
import subprocess
import sys

import numpy as np
import pytest

from experiments import _cli
from maxsup_jax import tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.models import MODELS
from maxsup_jax.tasks import resolve
from tests.conftest import ROOT
from tests.experiments.answers import answers
from tests.random_runs import make_run

NEW, OLD = '--workdir={new}', '{"kind": "report"}'
MISTAKES = {
  'train': [
    ([NEW, '--config=no_such.py'], "no run card 'no_such.py'"),
    ([NEW, '--config', 'no_such.py'], "no run card 'no_such.py'"),
    ([NEW, '--config=configs'], "no run card 'configs'"),
    ([NEW, '--config=configs/digits.py:los=ls'], 'known: loss=maxsup'),
    ([NEW, '--config=configs/digits.py:loss=mse'], 'known: ce, ls, maxsup'),
    ([NEW, '--config=configs/digits.py:seed=x'], 'expected int'),
    ([NEW, '--config.optimizer.momentun=1'], "mean 'config.optimizer.momentum"),
    (
      [NEW, '--config.optimizer.learning_rate=fast'],
      "'fast'; expected a",
    ),
    ([NEW, '--config.optimizer.learning_rate=inf'], 'finite number'),
    ([NEW, '--config.seed=1.5'], "'1.5'; expected an integer"),
    ([NEW, '--config.batch_size=None'], 'batch_size is None; expected int'),
    ([NEW, '--config.model.name=resnet51'], 'resnet50'),
    ([NEW, '--config.model.patch_size=2'], 'stem'),
    ([NEW, '--config.objective.alpha.end=1'], 'unknown field'),
    ([NEW, '--learning_rate=1'], 'unknown flag --learning_rate; known: --c'),
    ([NEW, 'stray'], "unexpected argument 'stray'"),
    ([NEW, '--num_processes=2'], 'must be given together'),
    (['--workdir=/dev/null/run'], 'cannot be written'),
    ([NEW, '--config.init_from={new}'], 'config.init_from: '),
    ([NEW, '--compilation_cache=/dev/null/x'], '--compilation_cache: compiled'),
  ],
  'evaluate': [
    ([], '--workdir is needed'),
    (['--workdir={tmp}'], 'no config.json'),
    (['--workdir={broken}'], 'config is a list; expected'),
    (['--workdir={run}', '--out=/dev/null/x'], '/dev/null/x cannot be written'),
  ],
  'extract': [
    ([], '--workdir is needed'),
    (['--workdir={tmp}'], 'no config.json'),
    (['--workdir={run}', '--weights=mean'], "--weights is 'mean'; expected"),
    (['--workdir={run}', '--weights=ema'], "--weights is 'ema', but the run"),
    (['--workdir={run}', '--step=7'], 'no checkpoint of step 7 in '),
    (['--workdir={run}', '--split=validation'], 'validation'),
    (['--workdir={run}', '--out={tmp}'], 'is a directory'),
  ],
  'gradcam': [
    ([], '--workdir is needed'),
    (['--workdir=x', '--images=,'], '--images is needed'),
    (['--workdir=x', '--images=0', '--normalize=all'], 'one of map, row'),
    (['--workdir={run}', '--images=0', '--layer=conv9'], 'known: '),
    (['--workdir={run}', '--images=999'], '--images: 999 is not an index'),
    (['--workdir={run}', '--images=0', '--out={svg}'], '--overwrite replaces'),
  ],
  'corruptions': [
    ([], '--workdir is needed'),
    (['--workdir=x', '--severities=a'], '--severities is a; expected whole'),
    (['--workdir={run}'], "--dataset: 'digits' has no known corrupted"),
  ],
  'transfer': [
    ([], '--workdir is needed'),
    (['--workdir={run}'], '--dataset is needed: what to classify'),
    (['--workdir={tmp}', '--dataset=x', '--out={new}'], 'no config.json'),
  ],
  'diagnose': [
    ([], 'no .npz files given'),
    (['{npz}'], '--out is needed'),
    (['{npz}', '--out={new}', '--sections=magic'], "section 'magic'"),
    (['{npz}', '--out={new}', '--names=x,y'], '2 names for 1 files'),
    (['{npz}', '--out={new}', '--seeds=one'], '--seeds is one; expected whole'),
    (['{npz}', '--out={new}', '--held_out=2'], 'held_out is 2.0'),
    (['{npz}', '--out={new}', '--train={npz},{npz}'], '--train has 2 files'),
    (['{npz}', '--out={new}', '--train={npz}'], 'those of the training'),
    (['{npz}', '--out={new}', '--resamples=1'], 'expected 0, or at least 40'),
    (['{npz}', '--out={new}', '--classes=0,1,9'], 'expected from 0 to 3'),
    (['{npz}', 'missing.npz', '--out={new}'], 'no file missing.npz'),
    (['{npz}', '--out={npz}'], 'is a file; expected a directory'),
    (['{npz}', '--otu=x', '--out={new}'], 'unknown flag --otu'),
    (['{npz}', '--out={old}'], 'choose another, or add --overwrite'),
  ],
  'show_batch': [
    (
      ['--out=batch.jpg'],
      'unknown ending; expected one of .png',
    ),
    (['--out=/dev/null/x.png'], 'cannot be written'),
    (['--epochs=0,-1'], '--epochs is 0,-1; expected integers from 0'),
    (['--epochs=0', '--step=3'], '--epochs and --step cannot be combined'),
    (['--epochs=0', '--split=eval'], '--epochs and --split cannot'),
  ],
  'torch_weights': [
    (['--file=no_such.pth'], '--workdir is needed'),
    ([NEW], 'expected --file, to import, or --out, to export'),
    ([NEW, '--out=a.pth', '--key=model'], '--key needs --file'),
    # The card is not there, and not looked for.
    ([NEW, '--out=a.pth', '--config=a.py'], '--config needs --file'),
  ],
  'unconstrained_features': [
    ([], '--out is needed'),
    (['--out={new}', '--alphas=0.1,x'], '--alphas is 0.1,x; expected numbers'),
    (['--out={new}', '--seeds=-1'], '--seeds is -1; expected an integer'),
    (['--out={new}', '--lr=0'], '--lr is 0.0; expected above 0'),
    (['--out=/dev/null/x'], 'cannot be written'),
  ],
}


@pytest.fixture(scope='module')
def places(tmp_path_factory, data_dir):
  tmp = tmp_path_factory.mktemp('usage')
  for name, text in (('broken/config', '[]'), ('old/results', OLD)):
    path = tmp / f'{name}.json'
    path.parent.mkdir()
    path.write_text(text)
  (tmp / 'a.svg').touch()
  labels = np.arange(40) % 4
  logits = np.random.default_rng(0).normal(size=(40, 4))
  np.savez(tmp / 'a.npz', logits=logits, labels=labels)
  model = {'model': {'name': 'resnet8', 'width': 4}}
  return {
    'tmp': tmp,
    'new': tmp / 'new',
    'broken': tmp / 'broken',
    'old': tmp / 'old',
    'svg': tmp / 'a.svg',
    'npz': tmp / 'a.npz',
    'run': make_run(tmp / 'run', model, data_dir),
  }


def test_mistakes_are_one_line(places, data_dir):
  cases = [(name, *x) for name, given in MISTAKES.items() for x in given]
  made = [[name, *(a.format(**places) for a in x)] for name, x, _ in cases]
  found = answers(made, places['tmp'], data_dir)
  for (code, err), (*arguments, message) in zip(found, cases):
    assert code == 2, (arguments, err)
    assert message in err, arguments
    # A progress bar that was drawn on the same line is wiped out.
    assert err.split('\r')[-1].startswith('error: '), err
    assert err.count('\n') == 1, err
  new = places['new']
  assert not new.exists() or not list(new.iterdir())


def test_help_imports_nothing_heavy():
  code = (
    'import importlib, os, sys\n'
    "heavy = {'jax', 'flax', 'tensorflow_datasets', 'orbax', 'matplotlib'}\n"
    f'for name in {(*MISTAKES, "benchmark.__main__", "compile_tpu")}:\n'
    # In copies of this process: each defines the same flags.
    '  if not os.fork():\n'
    "    importlib.import_module(f'experiments.{name}')\n"
    '    print(name, heavy & sys.modules.keys(), flush=True)\n'
    '    os._exit(0)\n'
    '  os.wait()'
  )
  loaded = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT
  )
  lines = loaded.stdout.splitlines()
  assert len(lines) == len(MISTAKES) + 2, loaded.stderr
  assert all(line.endswith(' set()') for line in lines), lines


def test_cards_are_loaded_without_jax():
  """And what is wrong in a flag is said before it is imported."""
  code = (
    'import sys; from experiments import _cli, train; from absl import flags;'
    "from pathlib import Path; cards = [p for p in Path('configs').glob('*.py')"
    " if p.stem not in ('common', '__init__')];"
    '[_cli.load_card(str(c)) for c in cards];'
    "sys.argv = ['train', '--config.ema_decay=2', '--config.init_from=None'];"
    "exec('try: _cli.run(train.main, config=str(cards[0]))\\n"
    "except SystemExit: pass');"
    "print({'jax', 'flax', 'orbax', 'grain'} & sys.modules.keys())"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.stdout.strip() == 'set()', done.stderr
  assert (
    'config.ema_decay is 2.0; expected at least 0 and below 1' in done.stderr
  )


VIT = {'name': 'vit_tiny', 'patch_size': 2}


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'dataset': {'name': 'no_such_dataset'}}, 'no_such_dataset'),
    ({'dataset': {'train_split': 'validation'}}, 'validation'),
    ({'dataset': {'name': 'cifar10'}}, 'cifar10'),
    ({'dataset': {'image_key': 'picture'}}, 'picture'),
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
      r'gives \[4, 4, 1\] images, train_transform \[8, 8, 1\]: ',
    ),
    ({'dataset': {'mean': (0.5, 0.5)}}, r'config\.dataset\.mean has 2'),
    ({'dataset': {'workers': -1}}, r'config\.dataset\.workers is -1'),
    ({'model': {'name': 'resnet51'}}, 'resnet50'),
    ({'model': {'name': 'resnet8', 'dtype': 'float8'}}, 'bfloat16'),
    ({'model': {'name': 'resnet8', 'batch_norm_axis': 'x'}}, 'batch_norm'),
    ({'model': {'name': 'vit_tiny', 'patch_size': 3}}, 'patch'),
    ({'objective': {'name': 'mse'}}, 'maxsup'),
    ({'objective': {'name': 'maxsup', 'alpha': -0.1}}, 'alpha'),
    ({'objective': {'name': 'ls', 'beta': 1}}, 'beta'),
    ({'optimizer': {'name': 'adam'}}, 'adamw'),
    ({'optimizer': {'learning_rate': 0.0}}, 'learning_rate'),
    ({'schedule': {'name': 'sawtooth'}}, 'cosine'),
    ({'schedule': {'milestones': (3,)}}, r'milestones is 3'),
    ({'batch_size': 130}, 'multiple of the 4 devices'),
    ({'batch_size': 2048}, '2048'),
    ({'duration': '0 epochs'}, r'config\.duration'),
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
  run = tasks.build(config, data_dir=data_dir, training=False)
  assert sum(b['mask'].sum() for b in run.task.eval_batches()) == 355


def test_a_card_that_cannot_be_loaded(tmp_path):
  card = tmp_path / 'card.py'
  for text, message in (
    ('def get_config(:\n', 'SyntaxError'),
    ('x = 1\n', 'KeyError'),
    ('def get_config(arg=None):\n  return None\n', 'NoneType'),
    ('def get_config(arg=None):\n  return 1 / 0\n', 'ZeroDivisionError'),
  ):
    card.write_text(text)
    with pytest.raises(UsageError, match=message):
      _cli.load_card(str(card))


def test_digits_card_knows_every_kind_of_model(data_dir):
  from configs import common

  get_config = runpy.run_path('configs/digits.py')['get_config']
  for model, entry in MODELS.items():
    assert common.model_options(model).items() <= entry.options.items()
  for model in ('resnet8', 'mobilenet_v2', 'vit_tiny'):
    config = resolve(get_config(f'model={model},seed=3'))
    run = tasks.build(config, data_dir=data_dir)
    assert run.total_steps == 30 * (1442 // 64)
