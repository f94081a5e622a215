"""What is wrong or means no good: one line, exit code 2, and nothing lost."""

import json
import os
import runpy
import shutil
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

NEW, RUN = '--workdir={new}', '--workdir={run}'
# Longer than the name of a file can be; a byte that is no UTF-8.
LONG, LONE = 300 * 'x', '\udcff'
# What it must say: the argument, the value, what was expected.
MISTAKES = {
  'train': [
    ([NEW, '--config=no_such.py'], "no run card 'no_such.py'"),
    ([NEW, '--config=configs'], "no run card 'configs'"),
    ([NEW, '--config=configs/digits.py:los=ls'], "mean 'loss'? Known: loss="),
    ([NEW, '--config=configs/digits.py:loss=maxsop'], "mean 'maxsup'? Known"),
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
    ([NEW, 'stray'], "unexpected argument 'stray'"),
    ([NEW, '--num_processes=2'], 'must be given together'),
    (['--workdir=/dev/null/run'], 'cannot be written'),
    ([NEW, '--config.init_from={new}'], 'config.init_from: '),
    ([NEW, '--compilation_cache=/dev/null/x'], '--compilation_cache: compiled'),
    ([NEW, '--config..=3'], 'unknown field config..; known'),
    (
      [NEW, '--config.model=resnet50'],
      "is 'resnet50'; expected a mapping",
    ),
    ([NEW, '--config.optimizer=None'], 'config.optimizer is None; expected a'),
    ([NEW, '--config.model.width=None'], "is 'None'; expected an integer"),
    ([NEW, f'--config.seed={10**30}'], 'from 0 to 4294967295'),
    ([NEW, '--config.optimizer.nesterov=2'], "'2'; expected True or False"),
    ([NEW, '--config.objective.alhpa=1'], "is 'alhpa'; did you mean 'alpha'"),
    ([NEW, f'--config.duration={10**20} epochs'], 'fits in 32 bits'),
    ([NEW, f'--config.model.width={10**9}'], 'a device has'),
    ([NEW, f'--config.batch_size={10**12}'], 'expected at most 1442'),
    ([NEW, f'--config.dataset.name={LONE}'], 'config.dataset.name is'),
    ([NEW, '--config.dataset.train_transform=flpi'], "did you mean 'flip'"),
    (
      [NEW, '--config.dataset.workers=100000'],
      'an integer, from 0 to',
    ),
    (
      [NEW, '--config.lerning_rate=1'],
      "did you mean 'config.optimizer.learning_rate'",
    ),
    ([NEW, '--config={binary}'], 'cannot be loaded (SyntaxError'),
    ([NEW, f'--data_dir={LONG}'], 'File name too long'),
    ([NEW, '--data_dir=/proc/1'], 'cannot prepare'),
    ([NEW, '--nomultihost=3'], '--nomultihost=3 does not take an argument'),
    ([NEW, '--flagfile={binary}'], "codec can't decode byte"),
    ([NEW, '--wrokdir=x'], "unknown flag --wrokdir; did you mean '--workdir'"),
    (['--workdir='], '--workdir is empty; expected a value'),
    (['--workdir={empty}'], 'empty is a file'),
    ([f'--workdir=/tmp/{LONG}'], 'File name too long'),
    (['--workdir={deep}'], 'maximum recursion depth'),
  ],
  'evaluate': [
    ([], '--workdir is needed'),
    (['--workdir={tmp}'], 'no config.json'),
    (['--workdir={broken}'], 'config is a list; expected'),
    ([RUN, '--out=/dev/null/x'], '/dev/null/x cannot be written'),
    ([RUN, '--out=gs://bucket/x'], '--out is gs://bucket/x; expected a path'),
    (['--workdir={pipe}'], 'pipe/config.json is not a regular file'),
    (['--workdir={no_directory}'], 'checkpoints is a file; expected a direct'),
    ([f'--workdir={LONG}'], 'File name too long'),
    ([RUN, '--out='], '--out is empty; expected a value'),
    ([RUN, '--step=1e3'], "--step is '1e3'; expected a step, latest or best"),
    ([RUN, f'--split={LONE}'], '--split is '),
  ],
  'extract': [
    ([], '--workdir is needed'),
    (['--workdir={tmp}'], 'no config.json'),
    ([RUN, '--weights=ema'], "--weights is 'ema', but the run"),
    ([RUN, '--step=7'], 'no checkpoint of step 7 in '),
    ([RUN, '--split=validation'], 'validation'),
    ([RUN, '--out={tmp}'], 'is a directory'),
    ([RUN, '--weights=rwa'], "--weights is 'rwa'; did you mean 'raw'"),
    ([RUN, '--per_class=0'], "--per_class is '0'; expected a positive"),
  ],
  'gradcam': [
    ([], '--workdir is needed'),
    (['--workdir=x', '--images=,'], '--images is needed'),
    ([RUN, '--images=0', '--layer=conv9'], 'known: '),
    ([RUN, '--images=999'], '--images: 999 is not an index'),
    ([RUN, '--images=0', '--out={svg}'], '--overwrite replaces'),
    ([RUN, '--images=0', '--normalize=maps'], "did you mean 'map'"),
    ([RUN, '--images=/dev/zero'], '/dev/zero is not a regular file'),
    ([RUN, RUN, '--images=0'], '--workdir has'),
  ],
  'corruptions': [
    ([], '--workdir is needed'),
    (['--workdir=x', '--severities=a'], '--severities is a; expected whole'),
    ([RUN, '--corruptions=fog'], 'expected one of noise, blur'),
    ([RUN, '--dataset=cifar10_corrupt'], "did you mean 'cifar10_corrupted'"),
    ([RUN, RUN], '--workdir has'),
  ],
  'study': [
    ([], '--workdir is needed'),
    (['--workdir=x', '--config=configs/digits.py'], 'not the card of a study'),
    (['--workdir=x', '--config=configs/study_digits.py:sed=1'], "'sed=1'"),
    (['--workdir=x', '--shard=3/3'], "--shard is '3/3'; expected I/N"),
    (['--workdir=x', '--run=ls/seed9'], "did you mean 'ls/seed"),
    (['--workdir=x', '--jobs=0'], '--jobs is'),
    ([RUN], 'has no study; choose another'),
  ],
  'transfer': [
    ([], '--workdir is needed'),
    ([RUN], '--dataset is needed: what to classify'),
    (['--workdir={tmp}', '--dataset=x', '--out={new}'], 'no config.json'),
  ],
  'diagnose': [
    ([], 'no files given'),
    (['{npz}'], '--out is needed'),
    (['{npz}', '--out={new}', '--names=x,y'], '2 names for 1 models'),
    (['{npz}', '--out={new}', '--seeds=one'], '--seeds is one; expected whole'),
    (['{npz}', '--out={new}', '--held_out=2'], 'held_out is 2.0'),
    (['{npz}', '--out={new}', '--train={npz},{npz}'], '--train has 2 files'),
    (['{npz}', '--out={new}', '--train={npz}'], 'those of the training'),
    (['{npz}', '--out={new}', '--resamples=1'], 'expected 0, or at least 40'),
    (['{npz}', '--out={new}', '--classes=0,1,9'], 'expected from 0 to 3'),
    (['{npz}', '--out={npz}'], 'is a file; expected a directory'),
    (['{npz}', '--out={old}'], 'choose another, or add --overwrite'),
    (['{npz}', '--out={new}', f'--resamples={10**12}'], 'at most 1000000'),
    (['{npz}', '--out={new}', f'--bins={10**11}'], 'from 1 to 10000'),
    (['{npz}', '--out={new}', '--seeds=1,1'], '--seeds are (1, 1); expected'),
    (['{npz}', '--out={new}', '--sections=sumary'], "did you mean 'summary'"),
    (['{tmp}', '--out={new}'], 'has an unknown ending; expected one of .npz'),
  ],
  'show_batch': [
    (['--out=batch.jpg'], 'unknown ending; expected one of .png'),
    (['--out=/dev/null/x.png'], 'cannot be written'),
    (['--epochs=0,-1'], '--epochs is 0,-1; expected integers from 0'),
    (['--epochs=0', '--step=3'], '--epochs and --step cannot be combined'),
    (['--epochs=0', '--split=eval'], '--epochs and --split cannot'),
    (['--out={new}.png', f'--epochs={10**30}'], 'from 0 to 2147483647'),
    (['--out={new}.png', f'--step={10**30}'], 'where training ends'),
  ],
  'torch_weights': [
    (['--file=no_such.pth'], '--workdir is needed'),
    ([NEW], 'expected --file, to import, or --out, to export'),
    ([NEW, '--out=a.pth', '--key=model'], '--key needs --file'),
    # The card is not there, and not looked for.
    ([NEW, '--out=a.pth', '--config=a.py'], '--config needs --file'),
    (['--workdir={tmp}/b', f'--file={LONG}.pth'], 'no file xxx'),
    (
      ['--workdir={tmp}/b', '--file=/dev/zero'],
      'is not a regular file',
    ),
    ([RUN, '--out={safetensors}'], 'exists; choose another file'),
  ],
  'unconstrained_features': [
    ([], '--out is needed'),
    (['--out={new}', '--alphas=0.1,x'], '--alphas is 0.1,x; expected numbers'),
    (['--out={new}', '--seeds=-1'], '--seeds is -1; expected an integer'),
    (['--out={new}', '--lr=0'], '--lr is 0.0; expected above 0'),
    (['--out=/dev/null/x'], 'cannot be written'),
    (['--out={new}', '--seeds=1,1'], '--seeds has 1 twice; expected distinct'),
    (['--out={new}', f'--steps={10**12}'], 'from 1 to 10000000'),
    (['--out={empty}'], 'is a file; expected a directory'),
  ],
  'benchmark.__main__': [
    (['--out=', '--losses='], '--losses is empty'),
    (['--out=', f'--batch_size={10**12}'], 'do not have enough memory'),
    (['--out=', '--suite=losses', f'--shapes={10**9}x9'], '2147483647 numbers'),
  ],
  'compile_tpu': [
    (['--topology=v5e:3x3', '--out='], "is 'v5e:3x3'; did you"),
  ],
}


@pytest.fixture(scope='module')
def places(tmp_path_factory, data_dir):
  tmp = tmp_path_factory.mktemp('usage')
  names = 'new', 'run', 'deep', 'pipe', 'broken', 'old', 'no_directory'
  at = {name: tmp / name for name in (*names, 'empty', 'binary')}
  at |= {'tmp': tmp, 'npz': tmp / 'a.npz', 'safetensors': tmp / 'a.safetensors'}
  at |= {'svg': tmp / 'a.svg'}
  make_run(at['run'], {'model': {'name': 'resnet8', 'width': 4}}, data_dir)
  for name in names[2:]:
    at[name].mkdir()
  (at['deep'] / 'config.json').write_text('{"a":' * 10_000 + '}' * 10_000)
  (at['broken'] / 'config.json').write_text('[]')
  (at['old'] / 'results.json').write_text('{"kind": "report"}')
  os.mkfifo(at['pipe'] / 'config.json')
  shutil.copy(at['run'] / 'config.json', at['no_directory'])
  (at['no_directory'] / 'checkpoints').touch()
  for name in ('empty', 'safetensors', 'svg'):
    at[name].touch()
  at['binary'].write_bytes(b'\xd5\0\xff' * 100)
  logits = np.random.default_rng(0).normal(size=(40, 4))
  np.savez(at['npz'], logits=logits, labels=np.arange(40) % 4)
  return at


def test_mistakes_are_one_line(places, data_dir):
  cases = [(name, *x) for name, given in MISTAKES.items() for x in given]
  made = [[name, *(a.format(**places) for a in x)] for name, x, _ in cases]
  wrong = []
  for (code, err), (*arguments, message) in zip(
    answers(made, places['tmp'], data_dir), cases
  ):
    # A progress bar that was drawn on the same line is wiped out. One line may
    # say before what the program is doing.
    lines = err.split('\r')[-1].splitlines()
    ok = code == 2 and message in err and 1 <= len(lines) <= 2
    if not ok or not lines[-1].startswith('error: '):
      wrong.append((arguments, code, err[-1000:]))
  assert not wrong, json.dumps(wrong, indent=1)
  new = places['new']
  assert not new.exists() or not list(new.iterdir())
  assert len(list(places['run'].iterdir())) == 2


# Answered before what takes seconds is imported.
AT_ONCE = [
  'train --config.optimizer.nmae=sgd',
  'train --config.optimizer.learning_rate=-1',
  'train --config.schedule.name=cosin',
  'train --config.duration=x',
  'train --config.model.name=resnt50',
  'train --config.objective.name=maxsp',
  'train --config.dataset.eval_transform=resiz(8)',
  'show_batch --config.model.name=resnt50',
  'torch_weights --workdir=x --file=README.md --config.model.name=resnt50',
  'train --workdir=/dev/null/x',
  'evaluate --workdir=/nonexistent',
  'extract --workdir=/nonexistent',
  'gradcam --workdir=/nonexistent --images=0',
  'gradcam --workdir=x --images=0 --out=x.bmp',
  'corruptions --workdir=/nonexistent',
  'diagnose missing.npz --out=x',
  'diagnose missing.npz --out=x --sections=magic',
  'diagnose missing.npz --out=x --bins=0',
  'show_batch --out=/dev/null/x.png',
  'torch_weights --workdir=/nonexistent --out=x.pth',
  'torch_weights --workdir=x --file=/nonexistent.pth',
  'unconstrained_features --out=x --lr=0',
  'unconstrained_features --out=x --objectives=cee',
  'benchmark.__main__ --suite=spead',
  'compile_tpu --topology=v1 --out=',
]


def test_mistakes_do_not_wait_for_imports():
  """Each in a copy of a process that has only the flags."""
  code = """if True:
    import json, os, resource, runpy, sys
    import experiments._cli
    heavy = {'jax', 'matplotlib', 'tensorflow_datasets', 'orbax', 'grain'}
    for line in json.load(sys.stdin):
      if not os.fork():
        sys.argv = line.split()
        try:
          runpy.run_module(f'experiments.{sys.argv[0]}', run_name='__main__')
        except SystemExit as e:
          seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime
          print([e.code, *heavy & sys.modules.keys()], f'{seconds:.2f}', line)
          sys.stdout.flush()
        os._exit(0)
      os.wait()
  """
  done = subprocess.run(
    [sys.executable, '-c', code],
    input=json.dumps(AT_ONCE),
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  print(done.stdout)
  lines = done.stdout.splitlines()
  assert len(lines) == len(AT_ONCE), done.stderr
  assert all(line.startswith('[2] ') for line in lines), done.stdout


def test_a_reader_that_ends_early_is_no_fault():
  command = f'{sys.executable} -m experiments.study --workdir=x --list | true'
  done = subprocess.run(
    ['bash', '-c', f'{command}; exit ${{PIPESTATUS[0]}}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stderr) == (141, '')


def test_help_imports_nothing_heavy():
  code = (
    'import importlib, os, sys\n'
    "heavy = {'jax', 'flax', 'tensorflow_datasets', 'orbax', 'matplotlib'}\n"
    f'for name in {(*MISTAKES,)}:\n'
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
  assert len(lines) == len(MISTAKES), loaded.stderr
  assert all(line.endswith(' set()') for line in lines), lines


def test_cards_are_loaded_without_jax():
  """And what is wrong in a flag is said before it is imported."""
  code = (
    'import sys; from experiments import _cli, train; from absl import flags;'
    "from pathlib import Path; cards = [p for p in Path('configs').glob('*.py')"
    " if p.stem not in ('common', '__init__')];"
    "studies = [c for c in cards if c.stem.startswith('study_')];"
    "[_cli.load_card(str(c), 'get_study') for c in studies];"
    'cards = [c for c in cards if c not in studies];'
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
    ('x = 1\n', r'no get_config\(\)'),
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
