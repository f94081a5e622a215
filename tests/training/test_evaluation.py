import dataclasses

import jax
import numpy as np
import optax
import pytest

from maxsup_jax import files, losses
from maxsup_jax.tasks import metrics
from maxsup_jax.training.evaluation import evaluate
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import create_state
from maxsup_jax.training.step import make_eval_step
from tests.training.linear import Linear, batches, task

# The training images of long-tailed CIFAR-10 with a ratio of 0.01.
LONG_TAILED = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_shots():
  groups = metrics.shot_groups(LONG_TAILED)
  assert groups == {
    'many': tuple(range(8)),
    'medium': (8, 9),
    'few': (),
  }
  assert metrics.shot_groups(np.array([101, 100, 20, 19, 0])) == {
    'many': (0,),
    'medium': (1, 2),
    'few': (3, 4),
  }
  assert metrics.shot_groups([50, 5], many=49, few=6)['few'] == (1,)


@pytest.mark.parametrize('count', [1, 4])
def test_accuracy_of_groups_of_classes(count):
  """By hand, over batches with padding, on any number of devices."""
  # Classes 0, 1, 2 and 9 have many examples, 5 has few.
  counts = [101, 101, 101, 50, 50, 5, 50, 50, 50, 101]
  groups = {'many': [0, 1, 2, 9], 'few': [5]}
  evaluated = task(Linear(), counts=counts)
  devices = Devices(jax.devices()[:count])
  state = create_state(
    evaluated.init_variables, optax.sgd(1.0), losses.OBJECTIVES['ce'](), seed=3
  )
  data = batches(3, 64)
  data[-1]['mask'][20:] = False
  means = evaluated.report(
    evaluate(
      devices.map(make_eval_step(evaluated)),
      devices.replicate(state),
      data,
      devices,
    )
  )
  mask = np.concatenate([b['mask'] for b in data])
  labels = np.concatenate([b['label'] for b in data])[mask]
  images = np.concatenate([b['image'] for b in data])[mask] / 255
  logits = images.reshape(len(labels), -1) @ np.asarray(
    state.params['Dense_0']['kernel'], np.float64
  )
  correct = logits.argmax(-1) == labels
  assert 0 < correct.mean() < 1
  assert means['accuracy'] == correct.mean()
  for name in ('many', 'few'):
    assert (
      means[f'accuracy_{name}'] == correct[np.isin(labels, groups[name])].mean()
    )
  assert list(means) == [
    'examples',
    'accuracy',
    'top5',
    'accuracy_many',
    'accuracy_medium',
    'accuracy_few',
    'nll',
    'ece',
    'objective',
  ]


def test_the_objective_is_that_of_the_last_step():
  """With its strength there, not that of a step still to come."""
  objective = losses.maxsup_objective(lambda step: step / 10)
  evaluated, devices = task(Linear(), objective), Devices(jax.devices()[:1])
  state = create_state(
    evaluated.init_variables, optax.sgd(1.0), objective, seed=3
  )
  (batch,) = batches(1, 16)
  logits, _ = evaluated.apply(state.variables(), batch['image'])
  for taken, alpha in ((0, 0.0), (1, 0.0), (6, 0.5)):
    now = dataclasses.replace(state, step=np.int32(taken))
    means = evaluated.report(
      evaluate(
        devices.map(make_eval_step(evaluated)),
        devices.replicate(now),
        [batch],
        devices,
      )
    )
    loss = losses.maxsup_cross_entropy(logits, batch['label'], alpha)
    assert means['objective'] == pytest.approx(float(loss.mean()), rel=1e-5)


def test_groups_without_examples():
  labels, mask = np.array([0, 1, 1]), np.ones(3, bool)
  logits = np.float32([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
  sums = metrics.output_sums(logits, labels, mask)
  sums['classes'] = metrics.class_sums(logits, labels, mask, 3)
  sums = jax.device_get(sums)
  means = metrics.means(sums, {'many': (0, 1), 'few': (1,), 'absent': (2,)})
  assert means['accuracy_many'] == pytest.approx(2 / 3)
  assert means['accuracy_few'] == 0.5
  # Not 0: nothing is known of a class without an example in the split.
  assert np.isnan(means['accuracy_absent'])
  assert files.jsonable(means)['accuracy_absent'] is None
  for ids in ((3,), (-1, 0)):
    with pytest.raises(ValueError, match='at least 0 and below 3'):
      metrics.means(sums, {'few': ids})
