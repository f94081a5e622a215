import csv
import doctest
import json
import shutil
import signal
import subprocess
import sys
import time
from typing import ClassVar

import cv2
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import (
  _corruption_data,
  _corruption_figure,
  _corruption_results,
  _corruptions,
)
from maxsup_jax import losses, tasks
from maxsup_jax.data import open_source
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks import resolve
from maxsup_jax.tasks.classification import Classification, normalize
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.config import to_json
from maxsup_jax.training.run import Run

SIZE, CLASSES = 8, 10
# Not the sizes of batches, and not equal: nothing may rely on either.
EXAMPLES = {'fog_1': 70, 'fog_5': 61, 'frosted_glass_blur_1': 67}
EXAMPLES['frosted_glass_blur_5'] = 64
CONFIG = {
  'batch_size': 16,
  'eval_batch_size': 32,
  'dataset': {'name': 'cifar10', 'mean': (0.5,), 'std': (0.25,)},
  'model': {'name': 'resnet8', 'width': 4},
  # Whose objective is not the NLL.
  'objective': {'name': 'maxsup', 'alpha': 0.2},
  'ema_decay': 0.9,
}
CHOICE = ('--corruptions=fog,glass_blur', '--severities=1,5')


def write_dataset(data_dir, name, config, splits, size=SIZE, names=None):
  """Random images, as a prepared dataset of tfds."""

  class Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
    url_infos: ClassVar = {}

    def _info(self):
      label = tfds.features.ClassLabel(
        **({'names': names} if names else {'num_classes': CLASSES})
      )
      image = tfds.features.Image(shape=(size, size, 3), encoding_format='png')
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict({'image': image, 'label': label}),
      )

    def _split_generators(self, dl_manager):
      return {s: self._generate_examples(s, n) for s, n in splits.items()}

    def _generate_examples(self, split, count):
      rng = np.random.default_rng(list(f'{name}{config}{split}'.encode()))
      for i in range(count):
        image = rng.integers(0, 256, (size, size, 3), np.uint8)
        png = cv2.imencode('.png', image)[1].tobytes()
        yield i, {'image': png, 'label': int(rng.integers(CLASSES))}

  Written.name = name
  builder = Written(data_dir=data_dir, file_format='array_record')
  builder.download_and_prepare()


@pytest.fixture(scope='module')
def corrupted(tmp_path_factory):
  path = tmp_path_factory.mktemp('data')
  write_dataset(path, 'cifar10', None, {'train': 40, 'test': 50})
  for config, count in EXAMPLES.items():
    write_dataset(path, 'cifar10_corrupted', config, {'test': count})
  return path


def random_state(run, seed):
  rng = np.random.default_rng(seed)

  def leaf(x):
    if not np.issubdtype(x.dtype, np.floating):
      return np.zeros(x.shape, x.dtype)
    if len(x.shape) > 1:
      scale = np.prod(x.shape[:-1]) ** -0.5
      return rng.normal(0, 2 * scale, x.shape).astype(x.dtype)
    return rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)

  return jax.tree.map(leaf, jax.eval_shape(run.init_state))


@pytest.fixture(scope='module')
def make_run(corrupted, tmp_path_factory):
  """A work directory with checkpoints of random weights, steps 3 and 7."""

  def make(name, changes=None, seed=0, data_dir=corrupted):
    path = tmp_path_factory.mktemp('runs') / name
    path.mkdir()
    config = resolve(CONFIG | (changes or {}))
    (path / 'config.json').write_text(to_json(config))
    run = tasks.build(config, data_dir=data_dir, training=False)
    checkpoints = Checkpoints(path / 'checkpoints')
    for step in (3, 7):
      checkpoints.save(step, random_state(run, seed + step), {})
    checkpoints.close()
    return path

  return make


@pytest.fixture(scope='module')
def workdir(make_run):
  return make_run('maxsup')


@pytest.fixture(scope='module')
def finished(run_program, workdir, corrupted, tmp_path_factory):
  """A directory of complete results, and what was printed."""
  out = tmp_path_factory.mktemp('out') / 'results'
  code, printed, err = run_program(
    'corruptions',
    f'--workdir={workdir}',
    f'--data_dir={corrupted}',
    f'--out={out}',
    *CHOICE,
  )
  assert code == 0, err
  return out, printed, err


def lines_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def run_of(path):
  (run,) = json.loads((path / 'results.json').read_text())['runs']
  return run


# ---- The program -------------------------------------------------------------


def test_the_numbers_are_those_of_evaluate(
  run_program, finished, workdir, corrupted, tmp_path
):
  out, _, _ = finished
  evals = [r for r in lines_of(out / 'results.jsonl') if r['kind'] == 'eval']
  # The same checkpoint, in a run whose dataset is the corrupted one.
  for name, at in (
    ('cifar10', ('clean', 0)),
    ('cifar10_corrupted/frosted_glass_blur_1', ('glass_blur', 1)),
  ):
    copy = tmp_path / name.replace('/', '_')
    copy.mkdir()
    config = json.loads((workdir / 'config.json').read_text())
    config['dataset'] |= {'name': name, 'train_split': 'test'}
    (copy / 'config.json').write_text(json.dumps(config))
    (copy / 'checkpoints').symlink_to(workdir / 'checkpoints')
    to = copy / 'numbers'
    code, _, err = run_program(
      'evaluate',
      f'--workdir={copy}',
      f'--data_dir={corrupted}',
      f'--out={to}',
    )
    assert code == 0, err
    expected = lines_of(to)[0]
    (found,) = (r for r in evals if (r['corruption'], r['severity']) == at)
    for metric in ('examples', 'accuracy', 'nll', 'ece'):
      assert found[metric] == expected[metric]
    # Which is not what the run minimised.
    assert found['nll'] != pytest.approx(expected['objective'], rel=1e-3)


def test_files_hold_every_dataset_and_its_means(finished, workdir):
  out, printed, err = finished
  assert sorted(p.name for p in out.iterdir()) == [
    '.lock',
    'corruptions.png',
    'results.csv',
    'results.json',
    'results.jsonl',
  ]
  results = json.loads((out / 'results.json').read_text())
  assert (results['dataset'], results['split']) == ('cifar10_corrupted', 'test')
  assert 'experiments.corruptions' in results['command']
  run = run_of(out)
  assert (run['name'], run['step'], run['weights']) == ('maxsup', 7, 'raw')
  assert run['config']['objective.name'] == 'maxsup'
  at = [(d['corruption'], d['severity']) for d in run['datasets']]
  assert at == [('fog', 1), ('fog', 5), ('glass_blur', 1), ('glass_blur', 5)]
  assert [d['examples'] for d in run['datasets']] == list(EXAMPLES.values())
  assert run['clean']['examples'] == 50
  for metric in ('error', 'nll', 'ece'):
    values = np.reshape([d[metric] for d in run['datasets']], (2, 2))
    rows = values.mean(1)
    assert run['mean'][metric] == pytest.approx(values.mean())
    assert run['std'][metric] == pytest.approx(rows.std(ddof=1))
    for name, row in zip(('fog', 'glass_blur'), rows):
      assert run['by_corruption'][name][metric] == pytest.approx(row)
    for severity, column in zip('15', values.mean(0)):
      assert run['by_severity'][severity][metric] == pytest.approx(column)
  with (out / 'results.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [r['corruption'] for r in rows] == ['clean', *(c for c, _ in at)]
  assert float(rows[2]['nll']) == run['datasets'][1]['nll']
  picture = cv2.imread(str(out / 'corruptions.png'))
  assert picture.shape[1] > 600
  table = {
    line[:22].strip(): line[22:].split() for line in printed.splitlines()
  }
  assert table['mean'] == [
    f'{run["mean"]["error"]:.2%}',
    f'{run["mean"]["nll"]:.4f}',
    f'{run["mean"]["ece"]:.2%}',
  ]
  assert table['clean'][0] == f'{run["clean"]["error"]:.2%}'
  assert table['glass_blur'][1] == (
    f'{run["by_corruption"]["glass_blur"]["nll"]:.4f}'
  )
  last = printed.strip().splitlines()[-1]
  assert last == (
    'means over 2 corruptions x 2 severities of cifar10_corrupted; written to '
    f'{out}'
  )
  assert f'{50 + sum(EXAMPLES.values())}/{50 + sum(EXAMPLES.values())}' in err


def test_killed_it_goes_on_and_gives_the_same(
  program, run_program, finished, workdir, corrupted, tmp_path
):
  whole, _, _ = finished
  out = tmp_path / 'results'
  arguments = (
    f'--workdir={workdir}',
    f'--data_dir={corrupted}',
    f'--out={out}',
    *CHOICE,
  )
  process = program('corruptions', *arguments)
  log = out / 'results.jsonl'
  while process.poll() is None:
    if log.exists() and log.read_text().count('\n') >= 2:
      break
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  # As if it had been killed in the middle of the third line.
  lines = log.read_text().splitlines(keepends=True)[:2]
  log.write_text(''.join(lines) + '{"kind": "eval", "run": "max')
  code, _, err = run_program('corruptions', *arguments)
  assert code == 0, err
  assert log.read_text().splitlines(keepends=True)[:2] == lines
  assert log.read_text() == (whole / 'results.jsonl').read_text()
  for name in ('results.csv', 'corruptions.png'):
    assert (out / name).read_bytes() == (whole / name).read_bytes()
  assert run_of(out) == run_of(whole)


def test_several_runs_side_by_side(
  run_program, finished, workdir, make_run, corrupted
):
  out, _, _ = finished
  other = make_run('ce', {'objective': {'name': 'ce'}}, seed=5)
  before = (out / 'results.jsonl').read_text()
  code, printed, err = run_program(
    'corruptions',
    f'--workdir={workdir}',
    f'--workdir={other}',
    f'--data_dir={corrupted}',
    f'--out={out}',
    *CHOICE,
    devices=2,
  )
  assert code == 0, err
  # Only the new run was evaluated.
  after = (out / 'results.jsonl').read_text()
  assert after.startswith(before)
  added = [json.loads(line) for line in after[len(before) :].splitlines()]
  assert {r['run'] for r in added} == {'ce'}
  assert len(added) == 1 + 1 + 4
  runs = json.loads((out / 'results.json').read_text())['runs']
  assert [r['name'] for r in runs] == ['maxsup', 'ce']
  rows = {r.split()[0]: r.split()[1:] for r in printed.splitlines() if r}
  for run in runs:
    cells = rows[run['name']]
    assert cells[0] == f'{run["mean"]["error"]:.2%}'
    assert cells[1] == f'({run["std"]["error"]:.2%})'
    assert cells[2] == f'{run["mean"]["nll"]:.4f}'
    assert cells[-1] == f'{run["clean"]["error"]:.2%}'


def test_what_is_wrong_is_one_line_before_anything_compiles(
  run_program, finished, workdir, corrupted, tmp_path, monkeypatch
):
  monkeypatch.setenv('JAX_LOG_COMPILES', '1')
  run, at = f'--workdir={workdir}', f'--data_dir={corrupted}'
  before = (finished[0] / 'results.jsonl').read_bytes()
  for arguments, message in (
    ([], '--workdir is needed'),
    ([run, '--workdir=x'], '--out is needed with several runs'),
    (
      [run, f'--out={finished[0]}', *CHOICE, '--step=3'],
      'holds results of another maxsup (step: 7 there, 3 here; checkpoint: ',
    ),
  ):
    code, out, err = run_program('corruptions', at, *arguments)
    assert (code, out) == (2, ''), err
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
  assert (finished[0] / 'results.jsonl').read_bytes() == before


def test_help_imports_nothing_heavy():
  code = (
    'import sys, experiments.corruptions;'
    "heavy = {'jax', 'flax', 'tensorflow_datasets', 'orbax', 'matplotlib'};"
    'assert not heavy & sys.modules.keys()'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('module', [_corruption_data, _corruption_results])
def test_examples_of_the_docstrings(module):
  result = doctest.testmod(module)
  assert result.attempted
  assert not result.failed


# ---- What to evaluate on -----------------------------------------------------


@pytest.mark.parametrize(
  'name', ['cifar10_corrupted', 'imagenet2012_corrupted']
)
def test_the_names_are_those_of_tfds(name):
  benchmark = _corruption_data.BENCHMARKS[name]
  known = set(tfds.builder_cls(name).builder_configs)
  names = {
    benchmark.dataset(corruption, severity).removeprefix(f'{name}/')
    for corruption in _corruption_data.STANDARD + _corruption_data.EXTRA
    for severity in range(1, 6)
  }
  assert names == known
  assert len(_corruption_data.STANDARD) == 15
  assert len(names) == 95


@pytest.mark.parametrize(
  ('trained_on', 'name'),
  [
    (['cifar10'], 'cifar10_corrupted'),
    (['cifar10:3.0.2', '/data/cifar10/3.0.2'], 'cifar10_corrupted'),
    (['imagenet2012'], 'imagenet2012_corrupted'),
    (['~/tfds/imagenet2012/5.1.0'], 'imagenet2012_corrupted'),
  ],
)
def test_the_benchmark_is_that_of_the_dataset(trained_on, name):
  assert _corruption_data.choose_benchmark(None, trained_on).name == name


def test_benchmarks_that_cannot_be_guessed():
  choose = _corruption_data.choose_benchmark
  assert choose('cifar10_corrupted', ['digits']).clean == 'cifar10'
  for arguments, message in (
    ((None, ['cifar100']), "version of the dataset 'cifar100' is known"),
    ((None, ['cifar10', 'imagenet2012']), 'cannot be compared'),
    (('cifar10', ['cifar10']), '--dataset=cifar10: known are cifar10_corr'),
  ):
    with pytest.raises(UsageError, match=message):
      choose(*arguments)


def test_corruptions_by_our_names_and_those_of_tfds():
  benchmark = _corruption_data.BENCHMARKS['cifar10_corrupted']
  choose = _corruption_data.choose_corruptions
  assert choose([], benchmark) == _corruption_data.STANDARD
  assert len(choose(['all'], benchmark)) == 19
  given = ['elastic', 'fog', 'elastic_transform', 'frosted_glass_blur']
  assert choose(given, benchmark) == ('elastic_transform', 'fog', 'glass_blur')
  with pytest.raises(UsageError, match="unknown 'rain'; known: all, gaussian"):
    choose(['fog', 'rain'], benchmark)


def test_severities():
  assert _corruption_data.choose_severities(['5', '1', '5']) == (1, 5)
  for given in ([], ['0'], ['6'], ['x'], ['1', '']):
    with pytest.raises(UsageError, match='expected numbers from 1 to 5'):
      _corruption_data.choose_severities(given)


def test_all_that_is_missing_is_named_at_once(corrupted):
  benchmark = _corruption_data.BENCHMARKS['cifar10_corrupted']
  check = _corruption_data.check_prepared
  sizes = check(benchmark, ['fog', 'glass_blur'], (1, 5), str(corrupted))
  assert list(sizes.values()) == list(EXAMPLES.values())
  with pytest.raises(UsageError) as e:
    check(benchmark, ['fog', 'elastic_transform'], (1, 2, 5), str(corrupted))
  assert str(e.value).startswith(
    f'4 of 6 datasets of cifar10_corrupted are not prepared in {corrupted}: '
    'run `for c in fog_2 elastic_1 elastic_2 elastic_5; do tfds build '
    'cifar10_corrupted/$c --file_format=array_record '
    f'--data_dir={corrupted}; done` once'
  )
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  ('own', 'clean', 'corrupted', 'seen', 'expected'),
  [
    # CIFAR: whatever is done to clean images is done to corrupted ones.
    ('', 32, 32, 32, None),
    ('standardize', 32, 32, 32, None),
    ('resize(36) | center_crop(32)', 32, 32, 32, None),
    # ImageNet: only what is there for the size goes.
    ('resize(256) | center_crop(224)', None, 224, 224, ''),
    (
      "resize(256, interpolation='bicubic')|center_crop(224)",
      None,
      224,
      224,
      '',
    ),
    ('resize_exact(224) | standardize()', None, 224, 224, 'standardize()'),
    # At another size it is needed.
    ('resize(320) | center_crop(299)', None, 224, 299, None),
  ],
)
def test_sizes_are_left_as_they_are_where_they_fit(
  own, clean, corrupted, seen, expected
):
  shapes = {
    name: size and (size, size, 3)
    for name, size in (
      ('clean', clean),
      ('corrupted', corrupted),
      ('seen', seen),
    )
  }
  assert _corruption_data.default_transform(own, **shapes) == expected


# ---- Runs --------------------------------------------------------------------


def restore(path, corrupted, **changes):
  arguments = {
    'name': 'run',
    'benchmark': _corruption_data.BENCHMARKS['cifar10_corrupted'],
    'first': ('fog', 1),
    'data_dir': str(corrupted),
    'step': None,
    'weights': 'raw',
    'transform': None,
  }
  return _corruptions.restore(str(path), **arguments | changes)


def test_runs_that_cannot_be_evaluated(workdir, corrupted, tmp_path):
  with pytest.raises(UsageError, match='no checkpoint of step 4'):
    restore(workdir, corrupted, step=4)
  config = json.loads((workdir / 'config.json').read_text())
  raw = tmp_path / 'raw'
  raw.mkdir()
  (raw / 'config.json').write_text(json.dumps(config | {'ema_decay': None}))
  with pytest.raises(UsageError, match='keeps no averaged weights'):
    restore(raw, corrupted, weights='ema')
  with pytest.raises(UsageError, match='no checkpoint in'):
    restore(raw, corrupted)
  with pytest.raises(UsageError, match='given twice'):
    _corruptions.names_of(['a/b', './a/b/'])
  assert _corruptions.names_of(['a/b', 'a/c']) == ['b', 'c']
  assert _corruptions.names_of(['a/x/b', 'c/x/b']) == ['a/x/b', 'c/x/b']


def test_other_classes_or_sizes_are_refused(workdir, tmp_path):
  for i, (clean, corrupted, message) in enumerate(
    (
      ({'names': list('abcdefghij')}, {'names': list('abcdefghji')}, 'order'),
      ({}, {'names': list('abcdefghijk')}, 'has 11 classes; the run was'),
      ({}, {'size': 12}, r'are \[12, 12, 3\] in the end, .* sees \[8, 8, 3\]'),
    )
  ):
    path = tmp_path / str(i)
    write_dataset(path, 'cifar10', None, {'train': 20, 'test': 8}, **clean)
    write_dataset(path, 'cifar10_corrupted', 'fog_1', {'test': 8}, **corrupted)
    with pytest.raises(UsageError, match=message):
      restore(workdir, path)


def test_averaged_weights_and_a_single_compilation(
  workdir, corrupted, monkeypatch
):
  traced = []
  make = Classification.eval_step

  def eval_step(self):
    step = make(self)

    def traced_step(*arguments):
      traced.append(1)
      return step(*arguments)

    return traced_step

  monkeypatch.setattr(Run, 'eval_step', eval_step)
  records = {}
  for weights in ('raw', 'ema'):
    trained = restore(workdir, corrupted, weights=weights)
    records[weights] = []
    with _corruptions.progress_bar(1, 0) as progress:
      _corruptions.evaluate_all(
        trained,
        _corruption_data.BENCHMARKS['cifar10_corrupted'],
        [('clean', 0), ('fog', 1), ('fog', 5), ('glass_blur', 5)],
        str(corrupted),
        progress,
        records[weights].append,
      )
    assert len(traced) == 1
    traced.clear()
  assert [r['examples'] for r in records['ema']] == [50, 70, 61, 64]
  for a, b in zip(*records.values()):
    assert a['nll'] != b['nll']
    assert a['error'] == 1 - a['accuracy']


def test_transforms_of_corrupted_images(make_run, corrupted, tmp_path):
  """As with ImageNet: clean images are larger, corrupted ones are not."""
  write_dataset(tmp_path, 'cifar10', None, {'train': 20, 'test': 8}, size=12)
  shutil.copytree(
    corrupted / 'cifar10_corrupted', tmp_path / 'cifar10_corrupted'
  )
  transforms = {
    'train_transform': 'random_resized_crop(8)',
    'eval_transform': 'resize(10) | center_crop(8)',
  }
  path = make_run(
    'crops', {'dataset': CONFIG['dataset'] | transforms}, data_dir=tmp_path
  )
  nlls = {}
  for transform in (None, '', transforms['eval_transform']):
    trained = restore(path, tmp_path, transform=transform)
    assert trained.identity['transform'] == (transform or '')
    with _corruptions.progress_bar(1, 0) as progress:
      _corruptions.evaluate_all(
        trained,
        _corruption_data.BENCHMARKS['cifar10_corrupted'],
        [('clean', 0), ('fog', 5)],
        str(tmp_path),
        progress,
        lambda r, t=transform: nlls.update({(t, r['corruption']): r['nll']}),
      )
  assert len({nll for (_, c), nll in nlls.items() if c == 'clean'}) == 1
  assert nlls[None, 'fog'] == nlls['', 'fog']
  assert nlls[None, 'fog'] != nlls[transforms['eval_transform'], 'fog']
  # The images as they are, through the model itself.
  source = open_source(
    'cifar10_corrupted/fog_5', 'test', data_dir=tmp_path, in_memory=True
  )
  images = normalize(source._images_NHWC, (0.5,), (0.25,))
  logits, _ = trained.run.task.model.apply(
    trained.state.variables(), images, train=False
  )
  loss = losses.cross_entropy(logits, source._labels_N).mean()
  assert float(loss) == pytest.approx(nlls['', 'fog'], rel=1e-5)
  with pytest.raises(UsageError, match='is random; evaluation must not be'):
    restore(path, tmp_path, transform='flip')
  with pytest.raises(UsageError, match='see --transform'):
    restore(path, tmp_path, transform='center_crop(6)')
  with pytest.raises(UsageError, match=r'--transform=polish\(3\): '):
    restore(path, tmp_path, transform='polish(3)')


# ---- Results -----------------------------------------------------------------


def record(corruption, severity, **values):
  values = {'error': 0.25, 'nll': 1.0, 'ece': 0.125} | values
  return {'corruption': corruption, 'severity': severity} | values


def test_numbers_that_are_not_defined():
  """A network that diverged has no NLL, and its mean none either."""
  summary = _corruption_results.summarize(
    [record('fog', 1), record('fog', 2, nll=None)]
  )
  assert summary['mean'] == {'error': 0.25, 'nll': None, 'ece': 0.125}
  # One corruption has no spread.
  assert summary['std'] == {'error': None, 'nll': None, 'ece': None}
  clean = record('clean', 0)
  table = _corruption_results.table_of_run(clean, summary).splitlines()
  assert table[-2].split() == ['mean', '25.00%', 'undefined', '12.50%']
  assert table[-1].split()[-3:] == ['-', '-', '-']
  runs = {'a': summary}
  table = _corruption_results.table_of_runs({'a': clean}, runs)
  assert table.splitlines()[1].split()[1:3] == ['25.00%', 'undefined']
  cleans = {'\u4e2d $x$': clean}
  records = {'\u4e2d $x$': [record('fog', 1), record('fog', 2, nll=None)]}
  png = _corruption_figure.heat_maps(records, cleans, 'caption')
  assert png == _corruption_figure.heat_maps(records, cleans, 'caption')


def test_a_log_of_another_configuration_is_refused(tmp_path):
  def identity(**changes):
    config = {'seed': 0, 'dataset.mean': (0.5,)} | changes
    return {'step': 7, 'transform': '', 'config': config}

  log = _corruption_results.Log(tmp_path / 'out')
  with log.opened():
    log.add_runs({'a': identity()})
    log.add_runs({'a': identity(), 'b': identity(seed=1)})
    text = (tmp_path / 'out' / 'results.jsonl').read_text()
    assert text.count('\n') == 2
    with pytest.raises(UsageError) as e:
      log.add_runs({'c': identity(), 'b': identity(**{'dataset.mean': (0.4,)})})
    assert 'of another b (config.seed: 1 there, 0 here; ' in str(e.value)
    assert 'config.dataset.mean: [0.5] there, [0.4] here); ' in str(e.value)
    assert (tmp_path / 'out' / 'results.jsonl').read_text() == text
    other = _corruption_results.Log(tmp_path / 'out')
    with pytest.raises(UsageError, match='another process'), other.opened():
      pass


def test_directories_that_are_not_ours(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UsageError, match='is not empty and holds no results'):
    _corruption_results.Log(tmp_path)
  with pytest.raises(UsageError, match='cannot be written'):
    _corruption_results.Log(tmp_path / 'file')
  (tmp_path / 'results.jsonl').write_text('?\n')
  with pytest.raises(UsageError, match=r'results\.jsonl cannot be read'):
    _corruption_results.Log(tmp_path).records()
