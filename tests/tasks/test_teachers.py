"""Students that learn from a trained run."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.special

from maxsup_jax import data, losses, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.extraction import extract
from maxsup_jax.training import loop
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.workdir import Workdir
from tests.random_runs import make_run, random_tree
from tests.runs import assert_same_bits, last_state, timeless

pytestmark = pytest.mark.usefixtures('cached_compilation')

TEACHER = {
  'model': {'name': 'tests.nets:Small', 'width': 4},
  'dataset': {'mean': (0.3,), 'std': (0.25,)},
}
CONFIG = {
  'model': {'name': 'tests.nets:Small', 'width': 2},
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
  variables = random_tree(run.shapes).variables()
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


@pytest.mark.slow
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


def test_outputs_in_a_file_teach(build, teacher, tmp_path, data_dir):
  loaded = tasks.load_run(teacher, split='train', data_dir=data_dir)
  path = extract(loaded, tmp_path / 'train.npz').path
  changes = {'dataset': {'std': (0.5,), 'label_noise': 0.1}}
  run = build(teacher=str(path), **changes)
  batch = next(run.task.train_batches(0))
  rows = data.batch_indices(1442, batch_size=16, seed=0, step=0)
  with np.load(path) as file:
    np.testing.assert_array_equal(batch['teacher_logits'], file['logits'][rows])
  (record,) = loop.train(run, Workdir(tmp_path / 'file'))
  assert 'objective' not in record
  # It is evaluated without the file; another file cannot go on.
  arrays = dict(np.load(path))
  path.unlink()
  tasks.load_run(tmp_path / 'file', data_dir=data_dir)
  np.savez(path, **arrays | {'logits': arrays['logits'] + 1})
  run = build(teacher=str(path), **changes)
  with pytest.raises(UsageError, match=r'teacher\.sha256'):
    loop.train(run, Workdir(tmp_path / 'file'))
  mixed = {'mixing': {'mixup': 0.2}}
  with pytest.raises(UsageError, match='its logits are of whole images'):
    build(teacher=str(path), **changes | mixed)


def test_the_largest_logits_are_kept():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(7, 6)).astype(np.float32), np.arange(7) % 6
  source = data.ArraySource(np.zeros((7, 4, 4), np.uint8), labels, 6)
  blocks = [(logits[:4], labels[:4]), (logits[4:], labels[4:])]
  whole, some = (data.TaughtSource(source, blocks, k) for k in (None, 2))
  for i, row in enumerate(logits):
    np.testing.assert_array_equal(whole[i]['teacher_logits'], row)
    found = scipy.special.softmax(np.float64(some[i]['teacher_logits']))
    p, top = scipy.special.softmax(np.float64(row)), np.argsort(row)[-2:]
    expected = np.full(6, (1 - p[top].sum()) / 4)
    expected[top] = p[top]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
  batch = next(data.train_batches(some, batch_size=3, seed=0))
  rows = data.batch_indices(7, batch_size=3, seed=0, step=0)
  np.testing.assert_array_equal(
    batch['teacher_logits'], [some[i]['teacher_logits'] for i in rows]
  )
  for wrong, message in (
    (blocks[:1], 'the teacher saw 4 examples; .* has 7'),
    ([(logits[:, 1:], labels)], 'the teacher has 5 classes; .* has 6'),
    ([(logits, labels[::-1])], 'the label of example 1 is 5 there and 1 in'),
  ):
    with pytest.raises(UsageError, match=message):
      data.TaughtSource(source, wrong)


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
