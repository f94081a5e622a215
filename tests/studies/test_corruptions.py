import csv
import json
import shutil
from typing import ClassVar

import cv2
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from maxsup_jax import losses, tasks
from maxsup_jax.data import open_source
from maxsup_jax.errors import UsageError
from maxsup_jax.reports.corruptions import heat_maps
from maxsup_jax.studies import corrupted_data, corruption_results, corruptions
from maxsup_jax.training.run import Run
from tests.random_runs import make_run

SIZE, CLASSES = 8, 10
# Not the sizes of batches, and not equal: nothing may rely on either.
EXAMPLES = {'fog_1': 70, 'fog_5': 61, 'frosted_glass_blur_1': 67}
EXAMPLES['frosted_glass_blur_5'] = 64
CONFIG = {
  'batch_size': 16,
  'eval_batch_size': 32,
  'dataset': {'name': 'cifar10', 'mean': (0.5,), 'std': (0.25,)},
  'model': {'name': 'tests.nets:Small'},
  # Whose objective is not the NLL.
  'objective': {'name': 'maxsup', 'alpha': 0.2},
  'ema_decay': 0.9,
}
CHOICE = {'corruptions': ['fog', 'glass_blur'], 'severities': [1, 5]}
CIFAR = corrupted_data.BENCHMARKS['cifar10_corrupted']

pytestmark = pytest.mark.usefixtures('cached_compilation')


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


@pytest.fixture(scope='module')
def workdirs(corrupted, tmp_path_factory):
  path = tmp_path_factory.mktemp('runs')
  other = CONFIG | {'objective': {'name': 'ce'}}
  return (
    make_run(path / 'maxsup', CONFIG, corrupted, (3, 7)),
    make_run(path / 'ce', other, corrupted, (3, 7), seed=5),
  )


def prepare(workdirs, out, corrupted, **changes):
  return corruptions.prepare(
    workdirs, out, **CHOICE | {'data_dir': str(corrupted)} | changes
  )


def lines_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_program_writes_every_dataset_and_its_means(
  run_program, workdirs, corrupted, tmp_path
):
  out = tmp_path / 'results'
  where = (f'--workdir={workdirs[0]}', f'--data_dir={corrupted}')
  which = ('--corruptions=fog,glass_blur', '--severities=1,5', f'--out={out}')
  code, printed, err = run_program('corruptions', *where, *which)
  assert code == 0, err
  kinds = ('csv', 'json', 'jsonl')
  names = {'.lock', 'corruptions.png', *(f'results.{kind}' for kind in kinds)}
  assert {p.name for p in out.iterdir()} == names
  results = json.loads((out / 'results.json').read_text())
  assert (results['dataset'], results['split']) == ('cifar10_corrupted', 'test')
  assert 'experiments.corruptions' in results['command']
  (run,) = results['runs']
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
  assert cv2.imread(str(out / 'corruptions.png')).shape[1] > 600
  table = {x[:22].strip(): x[22:].split() for x in printed.splitlines()}
  error, nll, ece = (run['mean'][m] for m in ('error', 'nll', 'ece'))
  assert table['mean'] == [f'{error:.2%}', f'{nll:.4f}', f'{ece:.2%}']
  assert printed.strip().endswith(f'of cifar10_corrupted; written to {out}')


def test_interrupted_it_goes_on_and_gives_the_same(
  workdirs, corrupted, tmp_path, monkeypatch
):
  """A line that was cut short is written anew; other runs may follow."""
  whole = corruptions.run(prepare(workdirs[:1], tmp_path / 'whole', corrupted))
  log = tmp_path / 'cut' / 'results.jsonl'
  study = prepare(workdirs[:1], tmp_path / 'cut', corrupted)
  opened = corruptions.open_corrupted

  def ending(benchmark, corruption, severity, **kwargs):
    if (corruption, severity) == ('fog', 5):
      raise KeyboardInterrupt
    return opened(benchmark, corruption, severity, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(corruptions, 'open_corrupted', ending)
    with pytest.raises(KeyboardInterrupt):
      corruptions.run(study)
  lines = log.read_text()
  log.write_text(lines + '{"kind": "eval", "run": "max')
  again = corruptions.run(study)
  assert again['runs'] == whole['runs']
  assert log.read_text().startswith(lines)
  assert log.read_text() == (tmp_path / 'whole/results.jsonl').read_text()
  both = corruptions.run(prepare(workdirs, tmp_path / 'cut', corrupted))
  added = lines_of(log)[len(lines_of(tmp_path / 'whole/results.jsonl')) :]
  # Only the new run was evaluated: its line, clean images, four datasets.
  assert {r['run'] for r in added} == {'ce'}
  assert len(added) == 1 + 1 + 4
  assert both['runs'][0] == whole['runs'][0]
  rows = corruption_results.table(both['runs']).splitlines()[1:]
  for row, run in zip(rows, both['runs']):
    cells = row.split()
    assert cells[:2] == [run['name'], f'{run["mean"]["error"]:.2%}']
    assert cells[-1] == f'{run["clean"]["error"]:.2%}'


def test_what_is_wrong_is_said_before_anything_is_computed(
  workdirs, corrupted, tmp_path
):
  raw = make_run(tmp_path / 'raw', CONFIG | {'ema_decay': None}, corrupted, ())
  for paths, changes, message in (
    (workdirs, {'out': None}, 'out is needed for several runs'),
    (workdirs[:1] * 2, {}, 'workdir has .* twice'),
    (workdirs[:1], {'severities': [0, 1]}, 'expected numbers from 1 to 5'),
    (workdirs[:1], {'corruptions': ['rain']}, "corruptions is 'rain'"),
    (workdirs[:1], {'step': 4}, 'no checkpoint of step 4'),
    ([raw], {'weights': 'ema'}, 'has no averaged weights'),
    ([raw], {}, 'no checkpoint in'),
    (workdirs[:1], {'transform': 'flip'}, 'is random; evaluation needs'),
    (workdirs[:1], {'transform': 'center_crop(6)'}, 'see transform'),
    (workdirs[:1], {'transform': 'polish(3)'}, '^transform: '),
  ):
    with pytest.raises(UsageError, match=message) as e:
      prepare(paths, changes.pop('out', tmp_path / 'x'), corrupted, **changes)
    assert '\n' not in str(e.value)
  assert not (tmp_path / 'x').exists()


def test_results_of_other_weights_are_kept_apart(
  workdirs, corrupted, tmp_path, monkeypatch
):
  """Averaged weights differ; a run compiles its evaluation once."""
  traced, make = [], Run.eval_step

  def eval_step(self):
    step = make(self)
    return lambda *a: (traced.append(1), step(*a))[1]

  monkeypatch.setattr(Run, 'eval_step', eval_step)
  found = {}
  for weights in ('raw', 'ema'):
    study = prepare(
      workdirs[:1], tmp_path / weights, corrupted, weights=weights
    )
    (found[weights],) = corruptions.run(study)['runs']
    assert len(traced) == 1
    traced.clear()
  for a, b in zip(found['raw']['datasets'], found['ema']['datasets']):
    assert a['nll'] != b['nll']
    assert a['error'] == 1 - a['accuracy']
  study = prepare(workdirs[:1], tmp_path / 'raw', corrupted, step=3)
  with pytest.raises(UsageError, match=r'of another maxsup \(step: 7 there'):
    corruptions.run(study)
  default = prepare(workdirs[:1], None, corrupted, weights='ema').directory
  assert default == workdirs[0] / 'corruptions' / 'cifar10_corrupted-7-ema'


def test_the_numbers_are_those_of_the_images_themselves(
  workdirs, corrupted, tmp_path
):
  """As with ImageNet-C: corrupted images have one size, and keep it.

  The run sees larger ones than in training where they are clean.
  """
  write_dataset(tmp_path, 'cifar10', None, {'train': 20, 'test': 8}, size=12)
  shutil.copytree(
    corrupted / 'cifar10_corrupted', tmp_path / 'cifar10_corrupted'
  )
  transforms = {
    'train_transform': 'random_resized_crop(8)',
    'eval_transform': 'resize(12) | center_crop(10)',
  }
  dataset = CONFIG['dataset'] | transforms
  path = make_run(tmp_path / 'crops', CONFIG | {'dataset': dataset}, tmp_path)
  found = {}
  for i, transform in enumerate((None, '', transforms['eval_transform'])):
    study = prepare([path], tmp_path / str(i), tmp_path, transform=transform)
    (run,) = corruptions.run(study)['runs']
    assert run['transform'] == (transform or '')
    found[transform] = run
  assert len({run['clean']['nll'] for run in found.values()}) == 1
  nlls = {name: run['datasets'][1]['nll'] for name, run in found.items()}
  assert nlls[None] == nlls[''] != nlls[transforms['eval_transform']]
  source = open_source('cifar10_corrupted/fog_5', 'test', data_dir=tmp_path)
  examples = [source[i] for i in range(len(source))]
  loaded = study.networks[0].loaded
  logits, _ = jax.jit(loaded.task.apply)(
    loaded.variables, np.stack([e['image'] for e in examples])
  )
  labels = np.array([e['label'] for e in examples])
  nll = losses.cross_entropy(logits, labels).mean()
  assert float(nll) == pytest.approx(nlls[''], rel=1e-5)


def test_other_classes_or_sizes_are_refused(workdirs, tmp_path):
  for i, (clean, other, message) in enumerate(
    (
      ({'names': list('abcdefghij')}, {'names': list('abcdefghji')}, 'order'),
      ({}, {'names': list('abcdefghijk')}, 'has 11 classes; the run was'),
      ({}, {'size': 12}, r'are \[12, 12, 3\]; expected \[8, 8, 3\]'),
    )
  ):
    path = tmp_path / str(i)
    write_dataset(path, 'cifar10', None, {'train': 20, 'test': 8}, **clean)
    write_dataset(path, 'cifar10_corrupted', 'fog_1', {'test': 8}, **other)
    with pytest.raises(UsageError, match=message):
      prepare(workdirs[:1], None, path, corruptions=['fog'], severities=[1])


# ---- What to evaluate on -----------------------------------------------------


def test_the_names_are_those_of_tfds():
  standard, extra = corrupted_data.STANDARD, corrupted_data.EXTRA
  assert (len(standard), len(extra)) == (15, 4)
  for name, benchmark in corrupted_data.BENCHMARKS.items():
    known = set(tfds.builder_cls(name).builder_configs)
    assert len(known) == 95
    assert {f'{name}/{config}' for config in known} == {
      benchmark.dataset(corruption, severity)
      for corruption in standard + extra
      for severity in range(1, 6)
    }


def test_the_benchmark_is_that_of_the_dataset():
  choose = corrupted_data.choose_benchmark
  for trained_on in (['cifar10'], ['cifar10:3.0.2', '/data/cifar10/3.0.2']):
    assert choose(None, trained_on) == CIFAR
  assert choose(None, ['~/tfds/imagenet2012/5.1.0']).clean == 'imagenet2012'
  assert choose('cifar10_corrupted', ['digits']).clean == 'cifar10'
  own = choose(None, ['digits', 'glyphs/3x40x20_16_easy'])
  assert corrupted_data.choose_corruptions([], own) == (
    *('noise', 'blur', 'contrast', 'pixelate'),
  )
  for arguments, message in (
    ((None, ['cifar100']), "'cifar100' has no known corrupted version"),
    ((None, ['cifar10', 'imagenet2012']), 'expected one dataset'),
    (('cifar10', ['cifar10']), 'expected one of cifar10_c.*, or a directory'),
  ):
    with pytest.raises(UsageError, match=message):
      choose(*arguments)


def test_corruptions_by_our_names_and_those_of_tfds():
  choose = corrupted_data.choose_corruptions
  assert choose([], CIFAR) == corrupted_data.STANDARD
  assert len(choose(['all'], CIFAR)) == 19
  given = ['elastic', 'fog', 'elastic_transform', 'frosted_glass_blur']
  assert choose(given, CIFAR) == ('elastic_transform', 'fog', 'glass_blur')


def test_all_that_is_missing_is_named_at_once(corrupted):
  check = corrupted_data.check_prepared
  given = (1, 2, 5), str(corrupted), tasks.default_config().dataset
  with pytest.raises(UsageError) as e:
    check(CIFAR, ['fog', 'elastic_transform'], *given)
  assert str(e.value).startswith(
    f'4 of 6 datasets of cifar10_corrupted are not prepared in {corrupted}: '
    'run `for c in fog_2 elastic_1 elastic_2 elastic_5; do tfds build '
    'cifar10_corrupted/$c --file_format=array_record '
    f'--data_dir={corrupted}; done` once'
  )


def test_sizes_are_left_as_they_are_where_they_fit():
  for own, *sizes, expected in (
    # CIFAR: whatever is done to clean images is done to corrupted ones.
    ('standardize', 32, 32, None),
    ('resize(36) | center_crop(32)', 32, 32, None),
    # ImageNet: only what is there for the size goes, whatever that is.
    ('resize(256) | center_crop(224)', None, 224, ''),
    ('resize(292) | center_crop(256)', None, 224, ''),
    ('resize_exact(224) | standardize()', None, 224, 'standardize()'),
  ):
    shapes = [size and (size, size, 3) for size in sizes]
    names = ('clean', 'corrupted')
    found = corrupted_data.default_transform(own, **dict(zip(names, shapes)))
    assert found == expected


def opened(path, corruption, severity):
  benchmark = corrupted_data.choose_benchmark(str(path), [])
  dataset = tasks.default_config().dataset
  return corrupted_data.open_corrupted(
    benchmark, corruption, severity, dataset=dataset, data_dir=None
  )


def test_the_files_of_cifar_are_five_severities_in_a_row(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (15, 8, 8, 3), np.uint8)
  np.save(tmp_path / 'fog.npy', images)
  np.save(tmp_path / 'labels.npy', np.tile([0, 2, 1], 5))
  source = opened(tmp_path, 'fog', 4)
  assert (len(source), source.num_classes) == (3, 3)
  for i, label in enumerate([0, 2, 1]):
    np.testing.assert_array_equal(source[i]['image'], images[9 + i])
    assert source[i]['label'] == label
  np.save(tmp_path / 'snow.npy', images[:7])
  (tmp_path / 'frost.npy').write_bytes(b'no array')
  for name, message in (
    ('snow', r'expected uint8 \[5 N'),
    ('frost', 'cannot be read'),
    ('spatter', 'No such file'),
  ):
    with pytest.raises(UsageError, match=message):
      opened(tmp_path, name, 1)


def test_the_folders_of_imagenet_are_read_with_or_without_their_group(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  for end in ('fog/1', 'noise/shot_noise/3'):
    for k, name in enumerate(('n02', 'n01')):
      folder = tmp_path / end / name
      folder.mkdir(parents=True)
      cv2.imwrite(str(folder / 'a.png'), pixels[k, ..., ::-1])
  for where in (('fog', 1), ('shot_noise', 3)):
    source = opened(tmp_path, *where)
    assert source.label_names == ('n01', 'n02')
    assert source.image_shape == (8, 8, 3)
    assert [source[i]['label'] for i in range(2)] == [0, 1]
    np.testing.assert_array_equal(source[1]['image'], pixels[0])
  with pytest.raises(UsageError, match='no directory fog/2'):
    opened(tmp_path, 'fog', 2)
  (tmp_path / 'fog/1/n01/b.png').write_bytes(b'no image')
  (tmp_path / 'noise/shot_noise/3/n01/a.png').unlink()
  with pytest.raises(UsageError, match=r'b\.png'):
    list(opened(tmp_path, 'fog', 1))  # Of any order.
  with pytest.raises(UsageError, match='n01 has no image'):
    opened(tmp_path, 'shot_noise', 3)


def test_a_run_on_digits_is_evaluated_on_corruptions_of_our_own(
  data_dir, tmp_path
):
  changes = {'model': {'name': 'tests.nets:Small'}, 'eval_batch_size': 100}
  changes['dataset'] = {'name': 'digits', 'eval_split': 'test[:60]'}
  run = make_run(tmp_path / 'run', changes, data_dir)
  study = corruptions.prepare([run], severities=[2], data_dir=str(data_dir))
  (found,) = corruptions.run(study)['runs']
  assert list(found['by_corruption']) == list(corrupted_data.CORRUPTIONS)
  assert found['mce'] is None
  assert {d['examples'] for d in found['datasets']} == {60}


# ---- Results -----------------------------------------------------------------


def record(corruption, severity, **values):
  values = {'error': 0.25, 'nll': 1.0, 'ece': 0.125} | values
  return {'corruption': corruption, 'severity': severity} | values


def test_numbers_that_are_not_defined():
  """A network that diverged has no NLL, and its mean none either."""
  records = [record('fog', 1), record('fog', 2, nll=None)]
  summary = corruption_results.summarize(records)
  assert summary['mean'] == {'error': 0.25, 'nll': None, 'ece': 0.125}
  # One corruption has no spread.
  assert summary['std'] == {'error': None, 'nll': None, 'ece': None}
  run = {'name': '\u4e2d $x$', 'clean': record('clean', 0), **summary}
  table = corruption_results.table([run]).splitlines()
  assert table[-2].split() == ['mean', '25.00%', 'undefined', '12.50%']
  assert table[-1].split()[-3:] == ['-', '-', '-']
  table = corruption_results.table([run, run])
  assert table.splitlines()[1].split()[2:4] == ['25.00%', 'undefined']
  runs = [run | {'datasets': records}]
  assert heat_maps(runs, 'caption') == heat_maps(runs, 'caption')


def test_the_mce_is_relative_to_alexnet():
  alexnet = corruption_results.ALEXNET
  assert list(alexnet) == list(corrupted_data.STANDARD)
  records = [
    record(name, s, error=0.5 * error + 0.01 * (s - 3))
    for name, error in alexnet.items()
    for s in range(1, 6)
  ]
  mce = corruption_results.mean_corruption_error
  assert mce(records) == pytest.approx(0.5)
  assert mce(records[:-1]) is None


def test_a_log_of_another_configuration_is_refused(tmp_path):
  def identity(**changes):
    config = {'seed': 0, 'dataset.mean': (0.5,)} | changes
    return {'step': 7, 'transform': '', 'config': config}

  log = corruption_results.Log(tmp_path / 'out')
  with log.opened():
    log.add_runs({'a': identity()})
    log.add_runs({'a': identity(), 'b': identity(seed=1)})
    text = (tmp_path / 'out' / 'results.jsonl').read_text()
    assert text.count('\n') == 2
    with pytest.raises(UsageError) as e:
      log.add_runs({'c': identity(), 'b': identity(**{'dataset.mean': (0.4,)})})
    assert 'of another b (config.seed: 1 there, 0 here; ' in str(e.value)
    assert (tmp_path / 'out' / 'results.jsonl').read_text() == text
    other = corruption_results.Log(tmp_path / 'out')
    with pytest.raises(UsageError, match='another process'), other.opened():
      pass


def test_directories_that_are_not_ours(tmp_path):
  (tmp_path / 'file').write_text('')
  for path, message in (
    (tmp_path, 'is not empty and has no such'),
    (tmp_path / 'file', 'cannot be written'),
  ):
    with pytest.raises(UsageError, match=message):
      corruption_results.Log(path)
  (tmp_path / 'results.jsonl').write_text('?\n')
  with pytest.raises(UsageError, match=r'results\.jsonl cannot be read'):
    corruption_results.Log(tmp_path).records()
