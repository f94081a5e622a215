"""What a run of a classifier adds to the loop."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from maxsup_jax import tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.losses import linear
from maxsup_jax.tasks import fused as fused_lib
from maxsup_jax.tasks.classification import Classification
from maxsup_jax.training import loop
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.workdir import Workdir
from tests.runs import assert_same_bits, last_state, timeless

pytestmark = pytest.mark.usefixtures('cached_compilation')

CONFIG = {
  'duration': '10 steps',
  'batch_size': 200,
  'dataset': {'in_memory': True, 'train_transform': 'pad_and_crop(1)'},
  'model': {'name': 'resnet8', 'width': 4},
  'optimizer': {'learning_rate': 0.05},
  'log_every': '4 steps',
  'eval_every': '10 steps',
  'checkpoint_every': '4 steps',
}


@pytest.fixture
def build(data_dir):
  def build(**changes):
    config = tasks.resolve(CONFIG | changes)
    devices = Devices(jax.devices()[:1])
    return tasks.build(config, data_dir=data_dir, devices=devices)

  return build


@pytest.mark.slow
def test_resuming_is_exact_with_an_objective_that_has_state(
  build, tmp_path, monkeypatch
):
  """Within the second epoch: statistics and soft labels are restored."""
  run = build(objective={'name': 'ols', 'initial': 'smoothed'})
  assert run.steps_per_epoch == 7
  (record,) = loop.train(run, Workdir(tmp_path / 'whole'))
  batches = Classification.train_batches

  def ending(self, start_step):
    for step, batch in enumerate(batches(self, start_step), start_step):
      if step == 9:
        raise KeyboardInterrupt
      yield batch

  with monkeypatch.context() as patch:
    patch.setattr(Classification, 'train_batches', ending)
    with pytest.raises(KeyboardInterrupt):
      loop.train(run, Workdir(tmp_path / 'cut'))
  loop.train(run, Workdir(tmp_path / 'cut'))
  whole, cut = (last_state(run, tmp_path / x) for x in ('whole', 'cut'))
  assert_same_bits(whole, cut)
  lines = timeless(tmp_path / 'whole')
  assert lines == timeless(tmp_path / 'cut')
  state = whole[0].objective_state
  # Step 10 is the third of the second epoch.
  assert 0 < state.counts.sum() <= 3 * 200
  np.testing.assert_allclose(state.targets.sum(-1), 1, rtol=1e-5)
  assert not np.allclose(state.targets, run.task.objective.init().targets)
  assert lines[0].keys() >= {'nll', 'accuracy', 'top5', 'objective', 'epoch'}
  schedule = np.mean([float(run.learning_rate(s)) for s in range(4)])
  assert lines[0]['learning_rate'] == pytest.approx(schedule, rel=1e-6)
  assert record['examples'] == len(run.task.eval_source)


LINEAR = {
  'schedule': 'linear',
  'begin': 0.1,
  'end': 0.2,
  'denominator': 'epochs',
}


@pytest.mark.parametrize(
  'objective',
  [
    {'name': 'ce'},
    {'name': 'maxsup', 'alpha': LINEAR},
    {'name': 'zipf', 'ranking': 'votes'},
    {'name': 'ce', 'class_weights': [1.0] * 9 + [5.0]},
    {'name': 'mbls', 'margin': 0.0, 'class_weights_mean': 'weights'},
  ],
  ids=lambda o: o['name'],
)
def test_what_objectives_need_reaches_them(build, objective):
  """And what is reported as NLL is plain cross-entropy."""
  if 'class_weights_mean' in objective:
    objective = {**objective, 'class_weights': [2.0] * 10}
  run = build(objective=objective, model={'name': 'tests.nets:Small'})
  variables = run.task.init_variables(jax.random.key(0))
  batch = next(run.task.train_batches(0))
  loss, mask, aux = jax.jit(
    jax.vmap(
      lambda batch: run.task.train_loss(
        variables,
        batch,
        step=jax.numpy.int32(3),
        objective_state=run.task.objective.init(),
        key=jax.random.key(1),
      ),
      axis_name='devices',
    )
  )(jax.tree.map(lambda x: x[None], batch))
  assert mask.all()
  total, count = aux.sums['nll']
  gap = loss.mean() - (total / count)[0]
  plain = objective == {'name': 'ce'}
  assert abs(gap) < 1e-5 if plain else gap > 1e-3


def test_what_the_program_cannot_give_an_objective_is_refused(build):
  resnet, vit = CONFIG['model'], {'name': 'vit_tiny', 'patch_size': 4}
  for objective, model, message in (
    ({'name': 'distillation'}, resnet, "'distillation' needs a teacher; set"),
    (
      {'name': 'zipf', 'ranking': 'votes'},
      vit,
      "needs a model with a feature map; 'vit_tiny' has none",
    ),
    (
      {'name': 'ce', 'class_weights': [1.0, 2.0]},
      resnet,
      r'class_weights is \(1.0, 2.0\); expected 10 numbers',
    ),
  ):
    with pytest.raises(UsageError, match=message):
      build(objective=objective, model=model)


def test_what_depends_on_the_number_of_devices(build):
  norm, vit = {'batch_norm': 'per_device'}, {'name': 'vit_tiny'}
  sam = {'learning_rate': 0.1, 'sam_rho': 0.05, 'sam_synced': False}
  synced = {'optimizer': sam | {'sam_synced': True}}
  for changes, found in (
    ({}, ()),
    (norm, ("config.batch_norm 'per_device'",)),
    (norm | {'model': vit | {'patch_size': 4}}, ()),
    (synced, ()),
    ({'optimizer': sam}, ('config.optimizer.sam_synced False',)),
  ):
    assert build(**changes).device_dependent == found


def test_few_logits_are_kept(build, monkeypatch):
  """Where there are more, there is no top-5."""
  task = build(batch_size=20, objective={'name': 'ce', 'fused': True}).task
  variables = jax.eval_shape(task.init_variables, jax.random.key(0))
  batch = next(task.train_batches(0))
  # 20 images of 10 classes.
  for least, metrics in ((201, {'nll', 'accuracy', 'top5'}), (200, None)):
    monkeypatch.setattr(fused_lib, 'FUSED_FROM', least)
    step = functools.partial(
      task.train_loss, step=0, objective_state=(), key=jax.random.key(1)
    )
    mapped = jax.vmap(step, (None, 0), axis_name='devices')
    batches = jax.tree.map(lambda x: x[None], batch)
    _, _, aux = jax.eval_shape(mapped, variables, batches)
    assert set(aux.sums) == (metrics or {'nll', 'accuracy'})


@pytest.mark.slow
def test_training_without_logits_is_the_same(build, monkeypatch):
  """Losses, gradients and metrics."""
  monkeypatch.setattr(fused_lib, 'FUSED_FROM', 200)
  monkeypatch.setattr(linear, '_block_size', lambda *_: 4)
  objective = {'name': 'maxsup', 'alpha': LINEAR, 'fused': True}
  task = build(batch_size=20, objective=objective).task
  variables = task.init_variables(jax.random.key(0))
  batch = jax.tree.map(lambda x: x[None], next(task.train_batches(0)))
  batch['mask'] = np.arange(20)[None] != 3

  def step(task):
    def mean(params, batch):
      values, where, aux = task.train_loss(
        {**variables, 'params': params},
        batch,
        step=jax.numpy.int32(3),
        objective_state=(),
        key=jax.random.key(1),
      )
      return (values * np.arange(20)).mean(), (values, where, aux)

    gradient = jax.grad(mean, has_aux=True)
    return jax.jit(jax.vmap(gradient, (None, 0), axis_name='devices'))

  arguments = variables['params'], batch
  fused = step(task).lower(*arguments)
  dense = step(dataclasses.replace(task, fused=False)).lower(*arguments)
  # Nothing else is of this size.
  assert 'f32[1,20,10]' in dense.as_text('hlo')
  assert 'f32[1,20,10]' not in fused.as_text('hlo')
  found, expected = (x.compile()(*arguments) for x in (fused, dense))
  top5 = expected[1][2].sums.pop('top5')
  assert top5[1] == 19
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 1e-6), found, expected
  )


def test_what_cannot_be_trained_without_logits(build):
  fused = {'fused': True}
  for changes, message in (
    ({'objective': {'name': 'focal'} | fused}, 'for this objective: ce, ls'),
    ({'objective': {'name': 'ls', 'convention': 'kl'} | fused}, "'kl'"),
    (
      {'objective': {'name': 'maxsup', 'adaptive_alpha': True} | fused},
      'adapt',
    ),
    (
      {'objective': {'name': 'ce', 'class_weights': [1.0] * 10} | fused},
      'but for adaptive_alpha, class_weights',
    ),
    ({'objective': {'name': 'ce', 'fused': 1}}, 'objective.fused is 1; exp'),
    (
      {'objective': {'name': 'ce'} | fused, 'mixing': {'mixup': 0.2}},
      'where images, and so labels, are mixed',
    ),
    (
      {
        'objective': {'name': 'ce'} | fused,
        'model': {'name': 'resnet32_bbn', 'head': 'causal_norm'},
      },
      'the head is a CausalNormHead; expected an nn.Dense',
    ),
  ):
    with pytest.raises(UsageError, match=message):
      build(**changes)
