import dataclasses
import hashlib
import shutil

import jax
import numpy as np
import pytest

from maxsup_jax import data, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.models import (
  MODELS,
  ModelEntry,
  ViT,
  create_segmenter,
  resampling,
  torch_weights,
)
from maxsup_jax.tasks import resolve
from maxsup_jax.tasks.weights import init_from
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.config import to_json
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import TrainState
from tests.runs import assert_same_bits

MODEL = {'name': 'resnet8', 'width': 4}
CONFIG = {
  'dataset': {'name': 'digits', 'in_memory': True},
  'model': MODEL,
  'ema_decay': 0.5,
}


@pytest.fixture(scope='module')
def build(data_dir):
  def build(**changes):
    return tasks.build(
      resolve(CONFIG | changes),
      data_dir=data_dir,
      devices=Devices(jax.devices()[:1]),
    )

  return build


def filled(shapes, seed):
  """Numbers for a state; to initialise it would take seconds to compile."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), shapes
  )


def fresh_state(run, seed=1):
  return filled(run.shapes, seed)


@pytest.fixture(scope='module')
def trained(build, tmp_path_factory):
  """A work directory with checkpoints of steps 4 and 8, and its last state."""
  path = tmp_path_factory.mktemp('init') / 'other'
  checkpoints = Checkpoints(path / 'checkpoints')
  for step in (4, 8):
    state = fresh_state(build(), seed=step)
    checkpoints.save(step, state, {})
  checkpoints.close()
  (path / 'config.json').write_text(to_json(build().config))
  return path, state


def numpy_of(tree):
  return jax.tree.map(np.asarray, tree)


def with_classes(monkeypatch, count):
  """Opens every split with so many classes; the labels stay below 10."""
  opened = data.open_source

  def open_source(*arguments, **options):
    source = opened(*arguments, **options)
    return data.ArraySource(source._images_NHWC, source._labels_N, count)

  monkeypatch.setattr(data, 'open_source', open_source)


def test_takes_the_newest_weights_and_nothing_else(build, trained):
  path, last = trained
  # Another seed, optimizer and objective: none of them matters.
  run = build(
    seed=5,
    optimizer={'name': 'adamw', 'learning_rate': 1e-3},
    objective={'name': 'ols', 'alpha': 0.5},
  )
  fresh = fresh_state(run)
  state = init_from(fresh, path, MODEL)
  assert_same_bits(numpy_of(state.variables()), numpy_of(last.variables()))
  assert state.params['head']['kernel'].dtype == np.float32
  # The averages of the other run differ: those here start anew.
  assert_same_bits(numpy_of(state.ema), numpy_of(last.variables()))
  assert state.step == fresh.step
  for name in ('step', 'opt_state', 'objective_state'):
    assert_same_bits(
      numpy_of(getattr(state, name)), numpy_of(getattr(fresh, name))
    )
  assert jax.tree.structure(state) == jax.tree.structure(fresh)


def test_a_head_of_another_size_stays_fresh(build, trained, monkeypatch):
  path, last = trained
  with_classes(monkeypatch, 13)
  run = build(seed=1)
  fresh = fresh_state(run)
  state = init_from(fresh, path, {**MODEL, 'dtype': 'bfloat16'})
  assert state.params['head']['kernel'].shape[-1] == 13
  for tree in (state.params, state.ema['params']):
    assert_same_bits(numpy_of(tree['head']), numpy_of(fresh.params['head']))
    assert_same_bits(
      numpy_of({k: v for k, v in tree.items() if k != 'head'}),
      numpy_of({k: v for k, v in last.params.items() if k != 'head'}),
    )
  assert_same_bits(numpy_of(state.batch_stats), numpy_of(last.batch_stats))


@pytest.mark.parametrize(
  ('model', 'message'),
  [
    ({'name': 'resnet8', 'width': 8}, 'width is 4 there and 8 here'),
    (
      {'name': 'resnet18', 'width': 4, 'stem': 'cifar'},
      "name is 'resnet8' there and 'resnet18' here",
    ),
    ({'name': 'vit_tiny', 'patch_size': 4}, "and 'vit_tiny' here"),
    # The same parameters, another network.
    (
      {'name': 'resnet8', 'width': 4, 'blur_pool': True},
      'blur_pool is False there and True here',
    ),
  ],
)
def test_another_model_is_one_line(build, trained, model, message):
  path, _ = trained
  shapes = build(model=model).shapes
  with pytest.raises(UsageError, match=message) as e:
    init_from(shapes, path, model)
  assert str(e.value).startswith(
    f'config.init_from: {path}, step 8 has another'
  )
  assert '\n' not in str(e.value)


def test_a_file_of_another_kind(build, tmp_path):
  path = tmp_path / 'weights.npz'
  path.touch()
  shapes = build().shapes
  with pytest.raises(
    UsageError, match=r'ends with \.pth, \.pt, \.th, \.ckpt'
  ) as e:
    init_from(shapes, path, MODEL)
  assert str(e.value).startswith(f'config.init_from is {path}; expected a work')


def test_a_smaller_model_is_not_taken_for_the_same(build, trained):
  path, _ = trained
  shapes = build().shapes
  params = dict(shapes.params)
  name, _ = params.popitem()
  while name == 'head':
    name, _ = params.popitem()
  with pytest.raises(UsageError, match=rf'{name}/\S+ is \[.*not there here'):
    init_from(shapes.replace(params=params), path, MODEL)


def test_a_head_that_sees_other_features_is_another_model(build, trained):
  path, _ = trained
  shapes = build().shapes
  kernel = jax.ShapeDtypeStruct((7, 13), np.float32)
  bias = jax.ShapeDtypeStruct((13,), np.float32)
  params = {**shapes.params, 'head': {'kernel': kernel, 'bias': bias}}
  with pytest.raises(UsageError, match=r'head/kernel is .* there and \[7, 13'):
    init_from(shapes.replace(params=params), path, MODEL)


def test_what_is_not_there(build, trained, tmp_path):
  path, _ = trained
  shapes = build().shapes
  with pytest.raises(
    UsageError, match=r'init_from: \S+ is not the work directory of a run'
  ):
    init_from(shapes, tmp_path, MODEL)
  assert list(tmp_path.iterdir()) == []
  (tmp_path / 'config.json').write_text(to_json(build().config))
  with pytest.raises(UsageError, match=r'init_from: no checkpoint in '):
    init_from(shapes, tmp_path, MODEL)
  copy = tmp_path / 'copy'
  shutil.copytree(path, copy)
  (copy / 'checkpoints' / '8' / 'checksums.json').unlink()
  with pytest.raises(UsageError, match=r'checkpoints/8 is damaged'):
    init_from(shapes, copy, MODEL)


class TestFiles:
  """Files of PyTorch weights in place of a work directory."""

  @pytest.fixture
  def file(self, build, trained, tmp_path):
    _, last = trained
    path = tmp_path / 'weights.safetensors'
    model = build().task.model
    torch_weights.write(path, torch_weights.to_torch(last.variables(), model))
    return path

  def test_takes_them(self, build, trained, file):
    _, last = trained
    fresh = fresh_state(build(seed=1))
    state = init_from(fresh, file, MODEL)
    assert_same_bits(numpy_of(state.variables()), numpy_of(last.variables()))
    assert_same_bits(numpy_of(state.ema), numpy_of(last.variables()))
    for name in ('step', 'opt_state', 'objective_state'):
      assert_same_bits(
        numpy_of(getattr(state, name)), numpy_of(getattr(fresh, name))
      )
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    # The shapes alone are enough to see whether they fit.
    shapes = jax.eval_shape(lambda: fresh)
    assert init_from(shapes, file, MODEL)

  def test_a_head_of_another_size_stays_fresh(
    self, build, trained, file, monkeypatch
  ):
    _, last = trained
    with_classes(monkeypatch, 13)
    fresh = fresh_state(build())
    state = init_from(fresh, file, MODEL)
    for tree in (state.params, state.ema['params']):
      assert_same_bits(numpy_of(tree['head']), numpy_of(fresh.params['head']))
      assert_same_bits(numpy_of(tree['conv1']), numpy_of(last.params['conv1']))

  def test_one_of_several_networks(self, build, trained, tmp_path):
    """Files as DINO and Lightning write them."""
    torch = pytest.importorskip('torch')
    _, last = trained
    arrays = torch_weights.to_torch(last.variables(), build().task.model)
    weights = {n: torch.tensor(value) for n, value in arrays.items()}
    backbone = {n: v for n, v in weights.items() if not n.startswith('fc.')}
    dino = {
      'student': {f'module.backbone.{n}': 0 * v for n, v in backbone.items()},
      'teacher': {
        **{f'backbone.{n}': v for n, v in backbone.items()},
        'head.mlp.0.weight': torch.ones(3, 3),
      },
      'epoch': 100,
    }
    lightning = {
      'state_dict': {
        **{f'net.{n}': v for n, v in weights.items()},
        'criterion.weight': torch.ones(2),
      },
      'hyper_parameters': {'lr': 0.1},
      'pytorch-lightning_version': '2.5.0',
    }
    fresh = fresh_state(build(seed=1))
    for name, content, options, heads in (
      ('dino.pth', dino, {'key': 'teacher', 'prefix': 'backbone.'}, fresh),
      ('epoch=9.ckpt', lightning, {'prefix': 'net.'}, last),
    ):
      torch.save(content, tmp_path / name)
      state = init_from(fresh, tmp_path / name, MODEL, **options)
      expected = {**last.params, 'head': heads.params['head']}
      assert_same_bits(numpy_of(state.params), numpy_of(expected))
      run = build(init_from=str(tmp_path / name), init=options)
      assert run.task.initialized(run.shapes)
    with pytest.raises(UsageError, match='choose the prefix'):
      init_from(fresh, tmp_path / 'epoch=9.ckpt', MODEL)
    with pytest.raises(UsageError, match=r"init\.key is 'ema'; expected None"):
      init_from(fresh, trained[0], MODEL, key='ema')
    with pytest.raises(UsageError, match=r'prefix is .a., which needs config.'):
      resolve({'init': {'prefix': 'a'}})

  def test_refuses_what_does_not_fit(self, build, file, tmp_path):
    shapes = build(model={**MODEL, 'width': 8}).shapes
    for path, message in (
      (file, r'init_from: \S+\.safetensors: bn1.bias: \[4\] in the'),
      (tmp_path / 'none.pth', r'init_from: \S+\.pth: no file'),
    ):
      with pytest.raises(UsageError, match=message):
        init_from(shapes, path, {**MODEL, 'width': 8})

  def test_the_record_of_a_run_has_their_checksum(self, build, file):
    origin = build(init_from=str(file)).task.origin()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert origin == {'init_from': {'path': str(file), 'sha256': digest}}


def segmenter_state(model, size, classes=5, seed=1):
  """The state of a model that classifies pixels, with averages."""
  module = create_segmenter(**model, num_classes=classes)
  images = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)
  variables = {'batch_stats': {}, **filled(shapes, seed)}
  return TrainState(
    step=np.zeros((), np.int32),
    **variables,
    opt_state=(),
    objective_state=(),
    ema=variables,
  ), module


UPERNET = {'name': 'upernet_vit_tiny', 'patch_size': 2}


def run_of(build, path, model):
  """A work directory, its state and its model."""
  run = build(model=model, ema_decay=None)
  state = fresh_state(run, seed=3)
  checkpoints = Checkpoints(path / 'checkpoints')
  checkpoints.save(4, state, {})
  checkpoints.close()
  (path / 'config.json').write_text(to_json(run.config))
  return path, state, run.task.model


@pytest.fixture(scope='module')
def vit(build, tmp_path_factory):
  """A run of a ViT like the one of the smallest UperNet, on 8x8 images."""
  sizes = {'dim': 64, 'depth': 4, 'heads': 4}
  entry = ModelEntry(ViT, sizes, MODELS['vit_tiny'].options)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(MODELS, 'vit_tiny', entry)
    path = tmp_path_factory.mktemp('vit')
    yield run_of(build, path, {'name': 'vit_tiny', 'patch_size': 2})


def test_positions_of_another_size_of_images(build, vit):
  """Those of a run, and of a file, as timm resizes them."""
  path, given, module = vit
  file = path / 'grey.pth'
  torch_weights.write(file, torch_weights.to_torch(given.variables(), module))
  transform = {f'{s}_transform': 'pad(12)' for s in ('train', 'eval')}
  model = {'name': 'vit_tiny', 'patch_size': 2}
  larger = build(model=model, dataset=CONFIG['dataset'] | transform)
  fresh = fresh_state(larger)
  expected = resampling.resize_positions(
    given.params['pos_embed'], (6, 6), 'antialias'
  )
  for source, hint in (
    (path, r'init\.resize_positions=true'),
    (file, 'resize_positions'),
  ):
    with pytest.raises(UsageError, match=hint):
      init_from(fresh, source, model)
    found = init_from(fresh, source, model, resize_positions=True).params
    np.testing.assert_allclose(found['pos_embed'], expected, rtol=1e-6)
    assert_same_bits(numpy_of(found['norm']), numpy_of(given.params['norm']))


class TestSegmenters:
  """Backbones from what classifies images, and all from mmsegmentation."""

  def as_file(self, vit):
    path, state, module = vit
    params = dict(state.params)
    # Images have three channels there.
    kernel = np.repeat(params['patch_embed']['kernel'], 3, axis=2)
    params['patch_embed'] = {**params['patch_embed'], 'kernel': kernel}
    file = path / 'weights.safetensors'
    given = {'params': params, 'batch_stats': {}}
    torch_weights.write(file, torch_weights.to_torch(given, module))
    return file, params

  def check(self, state, fresh, params, side):
    """All of the backbone is new, with its positions resized, and no more."""
    for tree in (state.params, state.ema['params']):
      backbone = dict(tree['backbone'])
      positions = backbone.pop('pos_embed')
      expected = {n: params[n] for n in backbone}
      assert {'norm', 'head', 'pos_embed'} == {*params} - {*backbone}
      assert_same_bits(numpy_of(backbone), numpy_of(expected))
      resized = resampling.resize_positions(params['pos_embed'], (side, side))
      np.testing.assert_allclose(positions, resized, rtol=1e-6)
      for part in ('decoder', 'head', 'neck'):
        assert_same_bits(numpy_of(tree[part]), numpy_of(fresh.params[part]))
    assert jax.tree.structure(state) == jax.tree.structure(fresh)

  def test_backbone_of_a_file(self, vit):
    file, params = self.as_file(vit)
    fresh, _ = segmenter_state(UPERNET, 16)
    self.check(init_from(fresh, file, UPERNET), fresh, params, 8)
    other = {**UPERNET, 'patch_size': 4}
    fresh, _ = segmenter_state(other, 16)
    with pytest.raises(UsageError, match=r'patch_embed.proj.weight: \[64, 3'):
      init_from(fresh, file, other)

  def test_backbone_of_a_run(self, vit):
    path, state, _ = vit
    fresh, _ = segmenter_state(UPERNET, 16)
    # The run saw one channel.
    backbone = dict(fresh.params['backbone'])
    kernel = backbone['patch_embed']['kernel'][:, :, :1]
    backbone['patch_embed'] = {**backbone['patch_embed'], 'kernel': kernel}
    params = {**fresh.params, 'backbone': backbone}
    fresh = dataclasses.replace(fresh, params=params)
    self.check(init_from(fresh, path, UPERNET), fresh, state.params, 8)
    other = {**UPERNET, 'patch_size': 4}
    with pytest.raises(UsageError, match='patch_size is 2 there and 4 here'):
      init_from(fresh, path, other)

  def test_statistics_come_along(self, build, trained, tmp_path):
    """Those of a ResNet, whose last batches are not the first of the new."""
    model = {'name': 'deeplabv3plus_resnet8'}
    path, state, _ = run_of(build, tmp_path, {'name': 'resnet8', 'width': 32})
    fresh, _ = segmenter_state(model, 8)
    backbone = dict(fresh.params['backbone'])
    kernel = backbone['conv1']['kernel'][:, :, :1]
    backbone['conv1'] = {'kernel': kernel}
    params = {**fresh.params, 'backbone': backbone}
    fresh = dataclasses.replace(fresh, params=params)
    found = init_from(fresh, path, model)
    assert_same_bits(
      numpy_of(found.batch_stats['backbone']), numpy_of(state.batch_stats)
    )
    assert_same_bits(
      numpy_of(found.batch_stats['pyramid']),
      numpy_of(fresh.batch_stats['pyramid']),
    )
    with pytest.raises(UsageError, match="is of 'resnet8', which is not the "):
      init_from(fresh, path, UPERNET)
    narrow, _ = trained
    with pytest.raises(UsageError, match='width is 4 there and 32 here'):
      init_from(fresh, narrow, model)

  def test_all_of_a_file_of_mmsegmentation(self, tmp_path):
    given, module = segmenter_state(UPERNET, 16, seed=2)
    file = tmp_path / 'weights.safetensors'
    torch_weights.write(file, torch_weights.to_torch(given.variables(), module))
    fresh, _ = segmenter_state(UPERNET, 16)
    found = init_from(fresh, file, UPERNET)
    assert_same_bits(numpy_of(found.variables()), numpy_of(given.variables()))

    # Both classifiers of another number of classes stay fresh.
    fresh, _ = segmenter_state(UPERNET, 16, classes=7)
    found = init_from(fresh, file, UPERNET)
    for tree, new in ((found.params, fresh), (found.ema['params'], fresh)):
      assert_same_bits(tree['head'], numpy_of(new.params['head']))
      auxiliary, old = (t['auxiliary_head'] for t in (tree, new.params))
      assert_same_bits(auxiliary['head'], numpy_of(old['head']))
      own = numpy_of(given.params['auxiliary_head']['conv'])
      assert_same_bits(numpy_of(auxiliary['conv']), own)
    assert_same_bits(numpy_of(found.batch_stats), numpy_of(given.batch_stats))
