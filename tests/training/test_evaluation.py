import jax
import numpy as np
import optax
import pytest

from maxsup_jax import losses
from maxsup_jax.training import metrics
from maxsup_jax.training.evaluation import Totals, evaluate, shot_groups
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import create_state
from maxsup_jax.training.steps import make_eval_step
from maxsup_jax.training.workdir import finite
from tests.training.linear import SHAPE, Linear, batches

# The training images of long-tailed CIFAR-10 with a ratio of 0.01.
LONG_TAILED = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_shots():
  groups = shot_groups(LONG_TAILED)
  assert groups == {
    'many': tuple(range(8)),
    'medium': (8, 9),
    'few': (),
  }
  assert shot_groups(np.array([101, 100, 20, 19, 0])) == {
    'many': (0,),
    'medium': (1, 2),
    'few': (3, 4),
  }
  assert shot_groups([50, 5], many=49, few=6)['few'] == (1,)


@pytest.mark.parametrize('count', [1, 4])
def test_accuracy_of_groups_of_classes(count):
  """By hand, over batches with padding, on any number of devices."""
  model, objective = Linear(), losses.ce_objective()
  devices = Devices(jax.devices()[:count])
  state = create_state(
    model, optax.sgd(1.0), objective, image_shape=SHAPE, seed=3
  )
  data = batches(3, 64)
  data[-1]['mask'][20:] = False
  groups = {'many': (0, 1, 2, 9), 'few': [5, 5], 'none': ()}
  means = evaluate(
    devices.map(make_eval_step(model, objective, per_class=True)),
    devices.replicate(state),
    data,
    devices,
    groups=groups,
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
  # Not 0: nothing is known of the accuracy of no class.
  assert np.isnan(means['accuracy_none'])
  assert finite(means)['accuracy_none'] is None
  assert list(means) == [
    'examples',
    'accuracy',
    'top5',
    'accuracy_many',
    'accuracy_few',
    'accuracy_none',
    'nll',
    'ece',
    'objective',
  ]


def totals(per_class):
  labels, mask = np.array([0, 1, 1]), np.ones(3, bool)
  logits = np.float32([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
  sums = {
    'classification': metrics.classification_sums(logits, labels, mask),
    'calibration': metrics.calibration_sums(logits, labels, mask),
  }
  if per_class:
    sums['classes'] = metrics.class_sums(logits, labels, mask, 3)
  result = Totals()
  result.add(jax.device_get(sums))
  return result


def test_groups_without_examples_or_counts():
  assert 'accuracy_few' not in totals(False).means()
  with pytest.raises(ValueError, match="group 'few' needs an evaluation per"):
    totals(False).means({'few': (1,)})
  means = totals(True).means({'many': (0, 1), 'few': (1,), 'absent': (2,)})
  assert means['accuracy_many'] == pytest.approx(2 / 3)
  assert means['accuracy_few'] == 0.5
  # A class of the group without an example in the split.
  assert np.isnan(means['accuracy_absent'])
  for ids in ((3,), (-1, 0)):
    with pytest.raises(ValueError, match='expected from 0 to below 3'):
      totals(True).means({'few': ids})
