"""Command lines that mean no good: one line, exit code 2, and nothing lost."""

import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.experiments.answers import answers
from tests.random_runs import make_run

# Longer than the name of a file can be; a byte that is no UTF-8.
LONG, LONE = 300 * 'x', '\udcff'
NEW, RUN = '--workdir={new}', '--workdir={run}'
# What it must say: the argument, the value, what was expected.
HOSTILE = {
  'train': [
    ([NEW, '--config.=3'], 'unknown field config.; known: config.batch'),
    ([NEW, '--config..=3'], 'unknown field config..; known'),
    ([NEW, '--config.optimiser.name=x'], "mean 'config.optimizer'"),
    (
      [NEW, '--config.model=resnet50'],
      "is 'resnet50'; expected a mapping",
    ),
    ([NEW, '--config.optimizer=None'], 'config.optimizer is None; expected a'),
    ([NEW, '--config.model.width=None'], "is 'None'; expected an integer"),
    ([NEW, '--config.seed=nan'], "--config.seed is 'nan'; expected an integer"),
    ([NEW, f'--config.seed={10**30}'], 'from 0 to 4294967295'),
    ([NEW, '--config.optimizer.nesterov=2'], "'2'; expected True or False"),
    ([NEW, '--config.objective.alpha=nan'], 'nan; expected a finite number'),
    ([NEW, '--config.objective.alhpa=1'], "is 'alhpa'; did you mean 'alpha'"),
    ([NEW, '--config.duration=inf epochs'], 'config.duration is'),
    ([NEW, f'--config.duration={10**20} epochs'], 'fits in 32 bits'),
    ([NEW, f'--config.model.width={10**9}'], 'a device has'),
    ([NEW, f'--config.batch_size={10**12}'], 'expected at most 1442'),
    ([NEW, '--config.dataset.name=digts'], 'did you mean digits'),
    ([NEW, f'--config.dataset.name={LONE}'], 'config.dataset.name is'),
    (
      [NEW, '--config.dataset.train_split=tain'],
      'dataset.train_split is',
    ),
    ([NEW, '--config.dataset.train_transform=flpi'], "did you mean 'flip'"),
    (
      [NEW, '--config.dataset.workers=100000'],
      'an integer, from 0 to',
    ),
    ([NEW, '--config.init_from={empty}'], 'config.init_from is'),
    ([NEW, f'--config={LONG}'], "no run card 'xxx"),
    ([NEW, '--config=/dev/zero'], "no run card '/dev/zero'"),
    ([NEW, '--config={binary}'], 'cannot be loaded (SyntaxError'),
    ([NEW, f'--data_dir={LONG}'], 'File name too long'),
    ([NEW, '--data_dir=/proc/1'], 'cannot prepare'),
    ([NEW, '--nomultihost=3'], '--nomultihost=3 does not take an argument'),
    ([NEW, '--flagfile={binary}'], "codec can't decode byte"),
    ([NEW, '--wrokdir=x'], "unknown flag --wrokdir; did you mean '--workdir'"),
    (['--workdir='], '--workdir is empty; expected a value'),
    (['--workdir={empty}'], 'empty is a file'),
    ([f'--workdir=/tmp/{LONG}'], 'File name too long'),
    (['--workdir=/proc/self/x'], '/proc/self/x cannot be written'),
    (['--workdir={deep}'], 'maximum recursion depth'),
  ],
  'evaluate': [
    (
      ['--workdir={deep}'],
      'config.json cannot be read: maximum recursion',
    ),
    (['--workdir={pipe}'], 'pipe/config.json is not a regular file'),
    (['--workdir={binary}'], 'Not a directory'),
    (['--workdir={no_directory}'], 'checkpoints is a file; expected a direct'),
    ([f'--workdir={LONG}'], 'File name too long'),
    ([RUN, '--out=/dev/full'], '/dev/full is not a regular file'),
    ([RUN, '--out='], '--out is empty; expected a value'),
    ([RUN, '--step=1e3'], "--step is '1e3'; expected an integer"),
    ([RUN, f'--step={10**30}'], 'known: 0'),
    ([RUN, f'--split={LONE}'], '--split is '),
  ],
  'extract': [
    ([RUN, '--out={tmp}'], 'is a directory'),
    ([RUN, f'--out=/tmp/{LONG}'], 'File name too long'),
    ([RUN, '--weights=rwa'], "--weights is 'rwa'; did you mean 'raw'"),
    ([RUN, '--per_class=0'], "--per_class is '0'; expected a positive"),
  ],
  'gradcam': [
    ([RUN, '--images=0', '--out=/dev/full'], 'unknown ending'),
    ([RUN, '--images=0', '--normalize=maps'], "did you mean 'map'"),
    ([RUN, '--images=/dev/zero'], '/dev/zero is not a regular file'),
    ([RUN, f'--images={LONG}'], 'File name too long'),
    ([RUN, RUN, '--images=0'], '--workdir has'),
  ],
  'corruptions': [
    ([RUN, '--dataset=cifar10_corrupt'], "did you mean 'cifar10_corrupted'"),
    ([RUN, '--severities=1.5'], '--severities is 1.5; expected whole'),
    ([RUN, RUN], '--workdir has'),
  ],
  'diagnose': [
    (['{npz}', '--out={new}', f'--resamples={10**12}'], 'at most 1000000'),
    (['{npz}', '--out={new}', f'--bins={10**11}'], 'from 1 to 10000'),
    (['{npz}', '--out={new}', '--seeds=1,1'], '--seeds are (1, 1); expected'),
    (['{npz}', '--out={new}', '--level=inf'], 'above 0 and below 1'),
    (['{npz}', '--out={new}', '--sections=sumary'], "did you mean 'summary'"),
    (['{binary}', '--out={new}'], 'it is no archive'),
    (['/dev/zero', '--out={new}'], '/dev/zero is not a regular file'),
    (['{tmp}', '--out={new}'], 'is a directory'),
    (['{npz}', '--out=/proc/self'], 'choose another'),
  ],
  'show_batch': [
    (['--out=/dev/full'], 'expected one of .png'),
    (['--out={new}.png', f'--epochs={10**30}'], 'from 0 to 2147483647'),
    (['--out={new}.png', f'--step={10**30}'], 'where training ends'),
  ],
  'torch_weights': [
    (['--workdir={tmp}/b', f'--file={LONG}.pth'], 'no file xxx'),
    (
      ['--workdir={tmp}/b', '--file=/dev/zero'],
      'is not a regular file',
    ),
    ([RUN, f'--out=/tmp/{LONG}.pth'], 'File name too long'),
    ([RUN, '--out={safetensors}'], 'exists; choose another file'),
  ],
  'unconstrained_features': [
    (['--out={new}', '--seeds=1,1'], '--seeds has 1 twice; expected distinct'),
    (['--out={new}', '--alphas=0.1,0.10'], '--alphas has 0.1 twice'),
    (['--out={new}', f'--steps={10**12}'], 'from 1 to 10000000'),
    (['--out={new}', f'--dim={10**12}'], '--dim is 1000000000000; expected'),
    (['--out={empty}'], 'is a file; expected a directory'),
  ],
  'benchmark.__main__': [
    (['--out=', '--losses='], '--losses is empty'),
    (['--out=', f'--batch_size={10**12}'], 'do not have enough memory'),
    (['--out=', '--suite=losses', f'--shapes={10**9}x9'], '2147483647 numbers'),
  ],
  'compile_tpu': [(['--topology=v5e:3x3', '--out='], "is 'v5e:3x3'; did you")],
}


@pytest.fixture(scope='module')
def places(tmp_path_factory, data_dir):
  tmp = tmp_path_factory.mktemp('hostile')
  names = 'new', 'run', 'deep', 'pipe', 'no_directory', 'empty', 'binary'
  at = {name: tmp / name for name in names}
  at |= {'tmp': tmp, 'npz': tmp / 'a.npz', 'safetensors': tmp / 'a.safetensors'}
  model = {'model': {'name': 'resnet8', 'width': 4}}
  make_run(at['run'], model, data_dir)
  for name in ('deep', 'pipe'):
    at[name].mkdir()
  (at['deep'] / 'config.json').write_text('{"a":' * 10_000 + '}' * 10_000)
  os.mkfifo(at['pipe'] / 'config.json')
  at['no_directory'].mkdir()
  shutil.copy(at['run'] / 'config.json', at['no_directory'])
  for path in (
    tmp / 'no_directory/checkpoints',
    at['empty'],
    at['safetensors'],
  ):
    path.touch()
  at['binary'].write_bytes(b'\xd5\0\xff' * 100)
  logits = np.random.default_rng(0).normal(size=(40, 4))
  np.savez(at['npz'], logits=logits, labels=np.arange(40) % 4)
  return at


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


def test_hostile_command_lines_are_one_line(places, data_dir):
  cases = [(name, *x) for name, given in HOSTILE.items() for x in given]
  made = [[name, *(a.format(**places) for a in x)] for name, x, _ in cases]
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  found = answers(made, places['tmp'], data_dir)
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  print(f'{after.ru_utime - before.ru_utime:.1f} CPU-seconds')
  wrong = []
  for (code, text), (*arguments, message) in zip(found, cases):
    last = text.split('\r')[-1].splitlines()
    ok = code == 2 and message in text and len(last) <= 3
    if not ok or not last[-1].startswith('error: '):
      wrong.append((arguments, code, text[-1000:]))
  assert not wrong, json.dumps(wrong, indent=1)
  new = places['new']
  assert not new.exists() or not list(new.iterdir())
  assert len(list(places['run'].iterdir())) == 2
