"""Students that learn from a trained run."""

import dataclasses

import jax
import numpy as np
import pytest

from maxsup_jax import losses, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.training import loop
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.workdir import Workdir
from tests.random_runs import make_run, random_tree
from tests.runs import assert_same_bits, last_state, timeless

pytestmark = pytest.mark.usefixtures('cached_compilation')

TEACHER = {
  'model': {'name': 'resnet8', 'width': 4},
  'dataset': {'mean': (0.3,), 'std': (0.25,)},
}
CONFIG = {
  'model': {'name': 'resnet8', 'width': 2},
  'dataset': {'train_transform': 'pad_and_crop(1)', 'std': (0.5,)},
  'objective': {
    'name': 'distillation',
    'beta': 0.7,
    'teacher_temperature': 2.0,
  },
  'duration': '4 steps',
  'batch_size': 16,
  'eval_batch_size': 355,
  'log_every': '2 steps',
  'checkpoint_every': '2 steps',
  'optimizer': {'learning_rate': 0.01},
}


@pytest.fixture
def teacher(tmp_path, data_dir):
  return make_run(tmp_path / 'teacher', TEACHER, data_dir, steps=(3,))


@pytest.fixture
def build(teacher, data_dir):
  def build(**changes):
    config = tasks.resolve({**CONFIG, 'teacher': str(teacher), **changes})
    devices = Devices(jax.devices()[:1])
    return tasks.build(config, data_dir=data_dir, devices=devices)

  return build


def test_the_objective_gets_the_teachers_logits(build, teacher, data_dir):
  """Of the augmented view, whichever normalisation the student has."""
  run = build()
  task, state = run.task, run.task.objective.init()
  variables = random_tree(jax.eval_shape(run.init_state)).variables()
  batch = next(task.train_batches(0))

  def loss_of(batch):
    return task.train_loss(
      variables,
      batch,
      step=np.int32(0),
      objective_state=state,
      key=jax.random.key(0),
    )

  one = jax.tree.map(lambda x: x[None], batch)
  mapped = jax.jit(jax.vmap(loss_of, axis_name=AXIS))(one)
  values, mask, aux = jax.tree.map(lambda x: x[0], mapped)
  loaded = tasks.load_run(teacher, data_dir=data_dir)
  expected, _ = loaded.task.apply(loaded.variables, batch['image'])
  own = task.normalize(batch['image'])
  found = task.teacher.logits(state[1], own)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
  (logits, _), _ = jax.vmap(
    lambda x: task.model.apply(
      variables, x, train=True, mutable=['batch_stats']
    ),
    axis_name=AXIS,
  )(own[None])
  options = {k: v for k, v in CONFIG['objective'].items() if k != 'name'}
  loss = losses.distillation_cross_entropy(
    logits[0], batch['label'], teacher_logits=expected, **options
  )
  np.testing.assert_allclose(values, loss, rtol=1e-3)
  assert mask.all()
  assert_same_bits(aux.objective_state[1], state[1])


def test_resuming_is_exact_whatever_became_of_the_teacher(
  build, teacher, tmp_path, data_dir
):
  run = build()
  loop.train(run, Workdir(tmp_path / 'whole'))

  class Interrupted(type(run.task)):
    def train_batches(self, start_step):
      for step, batch in enumerate(super().train_batches(start_step)):
        if step == 3:
          raise KeyboardInterrupt
        yield batch

  fields = dataclasses.fields(run.task)
  task = Interrupted(**{f.name: getattr(run.task, f.name) for f in fields})
  cut = dataclasses.replace(run, task=task)
  with pytest.raises(KeyboardInterrupt):
    loop.train(cut, Workdir(tmp_path / 'cut'))
  with Checkpoints(teacher / 'checkpoints') as checkpoints:
    state = tasks.load_run(teacher, data_dir=data_dir).state
    checkpoints.save(4, random_tree(state, seed=9), {})
  again = build()
  loop.train(again, Workdir(tmp_path / 'cut'))
  whole, resumed = (last_state(run, tmp_path / n) for n in ('whole', 'cut'))
  assert_same_bits(whole, resumed)
  assert timeless(tmp_path / 'whole') == timeless(tmp_path / 'cut')


def test_what_does_not_fit_is_one_line(build, teacher, tmp_path, data_dir):
  maxsup = {'name': 'maxsup', 'alpha': 0.1}
  vit = make_run(
    tmp_path / 'vit',
    {'model': {'name': 'vit_tiny', 'patch_size': 4}},
    data_dir,
    steps=(1,),
  )
  letters = make_run(
    tmp_path / 'letters',
    {**TEACHER, 'dataset': {'name': 'glyphs/3x30x10_16_easy'}, 'batch_size': 8},
    data_dir,
    steps=(1,),
  )
  larger = CONFIG['dataset'] | {
    'train_transform': 'resize_exact(12)',
    'eval_transform': 'resize_exact(12)',
  }
  floats = CONFIG['dataset'] | {
    'train_transform': 'standardize',
    'eval_transform': 'standardize',
  }
  for changes, message in (
    ({'teacher': None}, "'distillation' needs a teacher; set config.teacher"),
    ({'objective': maxsup}, "has no effect on the objective 'maxsup'"),
    ({'teacher': str(tmp_path)}, 'config.teacher: .*no config.json'),
    ({'teacher_weights': 'ema'}, 'config.teacher: .*no averaged weights'),
    ({'teacher': str(letters)}, 'letters has 3 classes; the student has 10'),
    (
      {'teacher': str(vit), 'dataset': larger},
      'config.teacher: images give 9 patches, but positions were learned',
    ),
    ({'dataset': floats}, 'see pixels of different scales'),
  ):
    with pytest.raises(UsageError, match=message) as e:
      build(**changes)
    assert '\n' not in str(e.value)
