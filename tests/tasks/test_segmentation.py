import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from maxsup_jax import data, models, outputs, tasks
from maxsup_jax.diagnostics import calibration, selective
from maxsup_jax.errors import UsageError
from maxsup_jax.models.drop_path import ChannelDropout
from maxsup_jax.studies import measuring
from maxsup_jax.studies.measures import MEASURES
from maxsup_jax.tasks import config as config_lib
from maxsup_jax.tasks import extraction, inference, segmenting, weights
from maxsup_jax.tasks.metrics import table
from maxsup_jax.training import loop
from maxsup_jax.training.parallel import AXIS, Devices
from tests.runs import assert_same_bits, last_state, timeless
from tests.training.regression import check_contract

pytestmark = pytest.mark.usefixtures('cached_compilations')

CONFIG = {
  'task': 'segmentation',
  'duration': '6 steps',
  'batch_size': 8,
  'eval_batch_size': 8,
  'dataset': {
    'name': 'glyph_scenes/2x24x10_32',
    'train_transform': 'random_crop(16) | flip',
  },
  'objective': {'name': 'maxsup', 'alpha': 0.1},
  'schedule': {'warmup': '2 steps'},
  'log_every': '2 steps',
  'eval_every': '6 steps',
  'checkpoint_every': '3 steps',
}


class Auxiliary(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.classes, name='head')(x)


class Small(nn.Module):
  """A segmenter of stride 2 with all that has to be handled."""

  normalize: bool = True
  classes: int = 3

  @nn.compact
  def __call__(self, images, *, train=False):
    x = nn.Conv(6, (3, 3), strides=2, name='conv')(images)
    if self.normalize:
      axis = None if self.is_initializing() else AXIS
      x = nn.BatchNorm(not train, momentum=0.9, axis_name=axis, name='bn')(x)
      x = ChannelDropout(0.2, AXIS)(nn.relu(x), train=train)
    out = {'penultimate': x}
    if train or self.is_initializing():
      head = Auxiliary(self.classes, name='auxiliary_head')
      out['auxiliary'] = head(x[:, ::2, ::2])
    return nn.Dense(self.classes, name='head')(x), out


def build(model: Any = Small(), devices=1, **changes):  # noqa: B008
  config = tasks.resolve(CONFIG | changes)
  devices = Devices(jax.devices()[:devices])
  return tasks.build(config, model=model, devices=devices)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'run'
  run = build()
  return path, run, loop.train(run, tasks.open_workdir(path, writes=True))


class Given:
  """A model that says what it is told."""

  def __init__(self, logits, auxiliary=None):
    self.out = logits, {} if auxiliary is None else {'auxiliary': auxiliary}

  def apply(self, variables, images, *, mutable=(), **_):
    return (self.out, {}) if mutable else self.out


def test_the_contract():
  task = build().task
  check_contract(task)
  assert (task.image_shape, task.eval_shape) == ((16, 16, 1), (32, 32, 1))
  assert set(config_lib.SEGMENTERS) == set(models.SEGMENTERS)
  # What the defaults build, nothing is computed.
  config = tasks.resolve(CONFIG | {'dataset': {'name': 'glyph_scenes/2x24_64'}})
  run = tasks.build(config)
  assert 'upernet_vit_tiny' in run.summary()
  # Positions are not decayed, where only kernels are.
  assert config.optimizer.decay == ('kernel',)


def test_it_trains_and_is_opened_again(trained, loaded):
  path, run, (record,) = trained
  source = run.task.eval_source
  labels = np.stack([source[i]['label'] for i in range(len(source))])
  assert record['examples'] == (labels != 255).sum()
  counts = np.bincount(labels[labels != 255], minlength=3)
  share = counts.max() / counts.sum()
  assert record['constant_accuracy'] == pytest.approx(share)
  assert record['constant_miou'] == pytest.approx(share / 3)
  lines = timeless(path)
  train = [r for r in lines if r['kind'] == 'train']
  for r in train:
    # The logs of the two heads add up, at the weight of the configuration.
    assert r['objective'] > 0.4 * r['auxiliary'] > 0
    assert 0.5 < r['labelled'] < 1
  assert train[-1]['nll'] < train[0]['nll']
  (again,) = loaded.evaluate()
  assert {n: record[n] for n in again} == again
  text = table([again])
  assert 'mIoU' in text
  assert 'near boundaries' in text
  assert 'one class everywhere gives' in run.task.headline(record)


def test_killed_and_resumed_it_is_the_same_run(trained, tmp_path, monkeypatch):
  path, run, _ = trained
  workdir = tasks.open_workdir(tmp_path / 'run', writes=True)
  batches = type(run.task).train_batches

  def cut(self, start):
    for at, batch in enumerate(batches(self, start), start):
      if at == 4:
        raise KeyboardInterrupt
      yield batch

  with monkeypatch.context() as patch:
    patch.setattr(type(run.task), 'train_batches', cut)
    with pytest.raises(KeyboardInterrupt):
      loop.train(build(), workdir)
  loop.train(build(), workdir)
  assert_same_bits(last_state(run, path), last_state(run, workdir.path))
  assert timeless(path) == timeless(workdir.path)


def step_of(run, batch, state):
  """The state and the sums after a step, on the host."""
  devices = run.devices
  step = devices.map(run.train_step())
  new, sums = step(devices.replicate(state), devices.shard(batch))
  return devices.fetch(new), devices.fetch(sums)


@pytest.fixture(scope='module')
def uneven(trained):
  """A batch whose images have very different shares of labels."""
  batch = dict(next(trained[1].task.train_batches(0)))
  batch['label'] = batch['label'].copy()
  for i in range(1, 8):
    batch['label'][i, : 2 * i] = 255
  return batch


@pytest.fixture(scope='module')
def loaded(trained):
  path, run, _ = trained
  return tasks.load_run(path, model=Small(), devices=run.devices)


def test_it_starts_from_another_run(loaded):
  """All of it; of a run with other classes all but the classifiers."""
  path, given = str(loaded.workdir.path), loaded.variables
  same = build(init_from=path).first_state()
  assert_same_bits(jax.device_get(same.variables()), given)
  model, dataset = Small(classes=4), {'name': 'glyph_scenes/3x24x10_32'}
  run = build(model, init_from=path, dataset=CONFIG['dataset'] | dataset)
  other, fresh = run.first_state(), run.init_state()
  assert_same_bits(
    jax.device_get(other.params['conv']), given['params']['conv']
  )
  for name in ('head', 'auxiliary_head'):
    assert_same_bits(other.params[name], fresh.params[name])
  with pytest.raises(UsageError, match='patch_size is 8 there and 4 here'):
    weights.init_from(
      run.shapes, path, {'name': 'upernet_vit_tiny', 'patch_size': 4}
    )


def test_images_one_by_one_have_the_scores_of_training(loaded, trained):
  (record,) = trained[2]
  source = loaded.task.eval_source
  evaluation = segmenting.Evaluation(source.num_classes)
  for found in segmenting.predict(loaded, segmenting.Protocol()):
    evaluation.add(found)
  report = evaluation.report()
  assert report['images'] == len(source)
  assert report['ece'] == pytest.approx(record['ece'], abs=1e-5)
  for name in ('miou', 'macc', 'accuracy', 'boundary_accuracy', 'examples'):
    assert report[name] == pytest.approx(record[name], rel=1e-6)
  lines = evaluation.table(source.label_names).splitlines()
  assert [line.split()[0] for line in lines[1:]] == ['background', 'O', 'Q']


def test_protocols_reach_the_passes(loaded, monkeypatch):
  asked = []

  def passes(network, image, **options):
    asked.append((image.shape, options))
    logits = network(image[None])[0]
    return [inference.Pass(logits, image.shape[:2])]

  monkeypatch.setattr(inference, 'passes', passes)
  for arguments in (
    {'scale': (64, 48), 'views': 'mmseg0', 'crop': 16, 'stride': 12},
    {'views': 'mmseg1'},
    {},
  ):
    protocol = segmenting.Protocol(**arguments)
    assert next(segmenting.predict(loaded, protocol)).classes.shape == (32, 32)
  (shape, first), (_, second), (_, last) = asked
  assert shape == (32, 32, 1)
  ratios, flip = inference.RATIOS, True
  assert first == {
    'crop': 16,
    'stride': 12,
    'protocol': 'mmseg0',
    'scale': (64, 48),
    'ratios': ratios,
    'flip': flip,
  }
  assert (second['protocol'], second['ratios']) == ('mmseg1', ratios)
  assert 'flip' not in last
  for arguments, message in (
    ({'views': 'mmseg0'}, "views is 'mmseg0', which needs scale"),
    ({'views': 'mmseg1', 'scale': (9, 9)}, 'expected no scale'),
    ({'stride': 3}, 'expected crop beside it'),
    ({'crop': 3, 'stride': 4}, 'stride is 4; expected'),
    ({'scale': (2048,)}, 'expected two numbers'),
  ):
    with pytest.raises(UsageError, match=message):
      segmenting.Protocol(**arguments)
  padded = data.parse_transform('pad(48)')
  task = dataclasses.replace(loaded.task, eval_transform=padded)
  run = dataclasses.replace(loaded.run, task=task)
  other = dataclasses.replace(loaded, run=run)
  with pytest.raises(UsageError, match='has pad, which does not keep'):
    next(segmenting.predict(other, segmenting.Protocol()))


def test_pixels_are_extracted_with_their_images(loaded, trained, tmp_path):
  (record,) = trained[2]
  # More than there are: all of them.
  found = extraction.extract(loaded, tmp_path / 'all.npz', limit=2000)
  assert found.examples == record['examples']
  assert found.accuracy == pytest.approx(record['accuracy'])
  assert found.nll == pytest.approx(record['nll'], rel=1e-5)
  read = outputs.read(found.path)
  source = loaded.task.eval_source
  counts = [int((source[i]['label'] != 255).sum()) for i in range(len(source))]
  assert np.bincount(read.groups).tolist() == counts
  assert read.class_names == ('background', 'O', 'Q')
  with pytest.raises(UsageError, match="task is 'segmentation'; expected"):
    extraction.extract(
      loaded, tmp_path / 'b', augmentations=extraction.Augmentations(2)
    )


def test_what_a_study_measures(loaded, trained):
  (record,) = trained[2]
  found, curves = measuring.of_segmentation(loaded)
  assert set(found) <= set(MEASURES)
  for name in ('miou', 'boundary_accuracy', 'interior_accuracy', 'ece'):
    assert found[name] == record[name]
  assert curves['eval']['nll'] == [record['nll']]
  # 1,000 pixels of each scene, all those of other scenes than T is fitted on.
  read = outputs.read(extraction.default_path(loaded))
  msp = selective.scores(read.logits, ('msp',))['msp']
  curve = selective.risk_coverage(msp, read.logits.argmax(1) != read.labels)
  assert found['aurc'] == pytest.approx(selective.aurc(curve))
  scaling = calibration.temperature_scaling(
    read.logits, read.labels, groups=read.groups
  )
  sides = (scaling.fit_examples, scaling.report_examples)
  of_fit, of_report = (set(read.groups[side]) for side in sides)
  assert len(of_fit) == len(of_report) == 5
  assert not of_fit & of_report
  assert found['nll_scaled'] == scaling.after.negative_log_likelihood


@pytest.mark.slow
def test_devices_change_nothing(trained, uneven):
  path, run, _ = trained
  state = tasks.load_run(path, model=Small(), devices=run.devices).state
  one, four = (step_of(build(devices=n), uneven, state) for n in (1, 4))
  assert one[1]['labelled'][0] == four[1]['labelled'][0]
  for a, b in zip(*map(jax.tree.leaves, (one, four))):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
  found = []
  for count in (1, 4):
    devices = Devices(jax.devices()[:count])
    loaded = tasks.load_run(path, model=Small(), devices=devices)
    found.append(loaded.evaluate()[0])
  for name in ('miou', 'macc', 'accuracy', 'boundary_accuracy', 'examples'):
    assert found[0][name] == found[1][name]
  for name in ('nll', 'ece', 'objective'):
    assert found[0][name] == pytest.approx(found[1][name], rel=1e-5)


# Nothing in it depends on how a batch is split.
PLAIN = Small(normalize=False)


def build_plain(**changes):
  return build(
    PLAIN,
    objective={'name': 'ls', 'alpha': 0.2, 'convention': 'uniform'},
    optimizer={'name': 'sgd', 'momentum': 0.0, 'weight_decay': 0.0},
    **changes,
  )


def test_the_mean_is_over_the_pixels_of_the_global_batch(uneven):
  """However it is split over devices and parts; or 0, where there are none."""
  empty = uneven | {'label': np.full_like(uneven['label'], 255)}
  found = []
  for split in ({}, {'devices': 2, 'accumulate': 2}):
    run = build_plain(**split)
    step = run.devices.map(run.train_step())
    state = run.init_state()
    one, none = (
      run.devices.fetch(
        step(run.devices.replicate(state), run.devices.shard(batch))
      )
      for batch in (uneven, empty)
    )
    found.append(one)
    assert_same_bits(none[0].params, jax.device_get(state.params))
    assert none[1]['objective'][0] == none[1]['grad_norm'][0] == 0
  for a, b in zip(*map(jax.tree.leaves, found)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_denominators_are_those_of_torch_and_mmsegmentation(uneven):
  task = build_plain().task
  variables = task.init_variables(jax.random.key(0))
  other = task.config.copy_and_resolve_references()
  with other.unlocked():
    other.denominator = 'all'

  @jax.jit
  def step(variables, batch):
    found = [
      t.train_loss(
        variables | {'batch_stats': {}},
        batch,
        step=0,
        objective_state=(),
        key=jax.random.key(0),
      )
      for t in (task, dataclasses.replace(task, config=other))
    ]
    sums = [
      (v.sum() / w.sum(), jnp.divide(*aux.sums['auxiliary']))
      for v, w, aux in found
    ]
    return sums, PLAIN.apply(
      variables, task.normalize(batch['image']), train=True
    )

  found, (logits, out) = step(variables, uneven)
  labels = torch.tensor(uneven['label'].astype(np.int64))
  expected = []
  for z in (logits, out['auxiliary']):
    z = torch.tensor(np.asarray(z, np.float64)).permute(0, 3, 1, 2)
    z = torch.nn.functional.interpolate(z, (16, 16), mode='bilinear')
    loss = torch.nn.functional.cross_entropy(
      z, labels, ignore_index=255, label_smoothing=0.2
    )
    expected.append(float(loss))
  total = expected[0] + 0.4 * expected[1]
  share = float((labels != 255).double().mean())
  assert 0.2 < share < 0.6
  assert found[0] == pytest.approx((total, expected[1]), rel=1e-5)
  scaled = share * total, share * expected[1]
  assert found[1] == pytest.approx(scaled, rel=1e-5)


def test_an_evaluation_of_nothing_has_no_scores(uneven):
  """No number is made up."""
  task = build_plain().task
  variables = jax.eval_shape(task.init_variables, jax.random.key(0))
  sums = jax.eval_shape(
    lambda v, b: task.eval_sums(v, b, step=0, objective_state=()),
    variables,
    uneven,
  )
  report = task.report(jax.tree.map(lambda x: np.zeros(x.shape), sums))
  assert report['examples'] == 0
  assert all(np.isnan(report[n]) for n in ('miou', 'accuracy', 'nll', 'ece'))


def test_the_report_is_by_hand():
  """The example of two rows; a masked image does not count."""
  labels = np.array([[[0, 1, 255], [1, 2, 2]]] * 2, np.uint8)
  said = np.array([[0, 1, 0], [0, 2, 1]])
  logits = jnp.asarray(np.stack([np.eye(3)[said] * 5] * 2), jnp.float32)
  task = dataclasses.replace(build().task, model=Given(logits))
  sums = jax.jit(
    lambda batch: task.eval_sums({}, batch, step=0, objective_state=())
  )(
    {
      'image': np.zeros((2, 3, 3, 1), np.uint8),
      'label': labels,
      'mask': np.array([True, True]),
    }
  )
  assert sums['confusion'].dtype == jnp.int32
  report = task.report(jax.tree.map(np.float64, sums))
  assert report['miou'] == pytest.approx((0.5 + 1 / 3 + 0.5) / 3)
  assert report['accuracy'] == pytest.approx(0.6)
  assert report['macc'] == pytest.approx((1 + 0.5 + 0.5) / 3)
  assert report['examples'] == 10
  z = np.exp(5) + 2
  nll = -(3 * np.log(np.exp(5) / z) + 2 * np.log(1 / z)) / 5
  assert report['nll'] == pytest.approx(nll, rel=1e-5)
  assert report['ece'] == pytest.approx(np.exp(5) / z - 0.6, rel=1e-4)


def test_loss_stride_takes_every_so_many_pixels(uneven):
  task = build(loss_stride=4).task
  logits = jax.random.normal(jax.random.key(0), (8, 4, 4, 3))
  task = dataclasses.replace(task, model=Given(logits))
  arguments = {'batch_stats': {}}, uneven
  values, where, aux = jax.jit(
    lambda v, b: task.train_loss(
      v, b, step=0, objective_state=(), key=jax.random.key(0)
    )
  )(*arguments)
  assert values.shape == where.shape == (8, 4, 4)
  np.testing.assert_array_equal(where, uneven['label'][:, 2::4, 2::4] != 255)
  assert 'auxiliary' not in aux.sums


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model': {'name': 'resnet8'}}, "'resnet8', which classifies images"),
    ({'model': {'name': 'upernet_vit'}}, 'config.model: unknown model'),
    ({'denominator': 'every'}, "config.denominator is 'every'; expected one"),
    ({'auxiliary_weight': -0.4}, 'config.auxiliary_weight is -0.4'),
    ({'loss_stride': 64}, 'loss_stride is 64; expected at most 16'),
    ({'diagnostics_every': '1 epoch'}, 'config.diagnostics_every'),
    ({'objective': {'name': 'ce', 'fused': True}}, 'expected False for segm'),
    (
      {'objective': {'name': 'ols', 'alpha': 0.5}},
      "objective.name is 'ols'; expected an objective of the logits and",
    ),
    ({'accumulate': 8}, 'config.batch_size is 8; expected at least 16'),
    ({'batch_size': 25}, 'config.batch_size is 25; expected at most 24'),
    ({'dataset': {'imbalance': 0.1}}, 'unknown field config.dataset.imb'),
    ({'teacher': 'runs/a'}, 'unknown field config.teacher'),
    (
      {'dataset': CONFIG['dataset'] | {'train_transform': 'rotate(15)'}},
      'train_transform: rotate cannot be applied to label maps',
    ),
    (
      {'dataset': CONFIG['dataset'] | {'train_transform': 'random_crop(2)'}},
      'images are 2x2; expected at least 9x9',
    ),
    (
      {'dataset': CONFIG['dataset'] | {'num_classes': 9, 'ignore': (3,)}},
      'ignore is 3, which is one of the 9 classes',
    ),
  ],
)
def test_wrong_configurations(changes, message):
  one = Devices(jax.devices()[:1])
  with pytest.raises(UsageError, match=message) as error:
    tasks.build(tasks.resolve(CONFIG | changes), devices=one)
  assert '\n' not in str(error.value)


def test_images_that_vary_in_size_are_brought_to_one(tmp_path):
  """A crop of what is smaller is padded; without that it is refused."""
  dataset = {'name': f'pairs:{tmp_path}', 'num_classes': 4, 'mock': 9}
  dataset |= {'train_transform': 'random_crop(64, cat_max_ratio=0.75)'}
  with pytest.raises(UsageError, match=r"end .* 'random_crop\(512\) \| pad"):
    build(dataset=dataset)
  for field in ('train_transform', 'eval_transform'):
    dataset[field] = 'random_crop(64) | pad(64)'
  with pytest.raises(UsageError, match=r'eval_transform .* is random'):
    build(dataset=dataset)
  dataset['eval_transform'] = 'resize_within(64, 64) | pad(64)'
  task = build(dataset=dataset, eval_batch_size=4).task
  assert task.image_shape == task.eval_shape == (64, 64, 3)
  batch = next(task.train_batches(0))
  assert batch['label'].shape == (8, 64, 64)
  assert (batch['label'] == 255).mean() > 0.1
