"""What a study measures of a run, against other ways to the same numbers."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.metrics import roc_auc_score

from maxsup_jax import data, outputs, tasks
from maxsup_jax.diagnostics.mutual_information import mutual_information
from maxsup_jax.studies import measuring
from maxsup_jax.studies.measures import MEASURES
from maxsup_jax.studies.study import Study, Transfer
from tests.classifier import classifier
from tests.random_runs import make_run

pytestmark = pytest.mark.usefixtures('cached_compilation')

CHANGES = {
  'model': {'name': 'tests.nets:Small'},
  'objective': {'name': 'ls', 'alpha': 0.2, 'convention': 'uniform'},
  'dataset': {
    'train_split': 'train[:300]',
    'train_transform': 'pad_and_crop(1)',
    'eval_split': 'test[:200]',
    'mean': (0.3,),
    'std': (0.38,),
  },
  'eval_batch_size': 100,
}


@pytest.fixture(scope='module')
def measured(tmp_path_factory, data_dir):
  run = make_run(
    tmp_path_factory.mktemp('study') / 'ls' / 'seed0',
    CHANGES,
    data_dir,
    steps=(0, 3, 4),
  )
  study = Study(
    'one',
    'One',
    '',
    {'ls': ConfigDict(CHANGES)},
    (0,),
    transfer=Transfer('glyphs/3x40x20_16_easy', strengths=(0.1, 1.0)),
  )
  return run, *measuring.measure(study, run, data_dir)


def test_measures_of_a_run_are_those_of_its_outputs(measured, data_dir):
  run, found, curves = measured
  assert set(found) <= set(MEASURES)
  test = outputs.read(run / 'extract' / 'test_200-4.npz')
  assert test.method == 'ls'
  z = test.logits.astype(np.float64)
  p = np.exp(z - z.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  right = p.argmax(1) == test.labels
  assert found['accuracy'] == right.mean()
  expected = roc_auc_score(right, p.max(1))
  # Log-odds tell apart what probabilities near 1 do not.
  assert found['auroc'] == pytest.approx(expected, abs=1e-3)
  assert found['top_logit'] == pytest.approx((z.max(1) - z.mean(1)).mean())
  # Label smoothing: alpha times one less 1/K, and minus alpha over K.
  assert found['suppression_gap'] == pytest.approx(0.2, abs=1e-6)
  risk = curves['risk_coverage']['risk'][-1]
  assert risk == pytest.approx(1 - right.mean())
  assert sum(curves['reliability']['count']) == 200
  (record,) = tasks.load_run(run, data_dir=data_dir).evaluate()
  assert found['nll'] == pytest.approx(record['nll'], rel=1e-5)
  assert 0 < found['corrupted_error'] <= 1
  assert 0.2 < found['transfer'] <= 1


def test_information_is_that_of_the_views_at_every_checkpoint(
  measured, data_dir
):
  """The last checkpoint, computed with the model itself."""
  run, found, curves = measured
  # An epoch has two steps; step 3 is none that a run saves by itself.
  assert curves['information']['epoch'] == [0, 2]
  loaded = tasks.load_run(run, data_dir=data_dir, split='train[:300]')
  source = loaded.task.eval_source
  labels = data.sources.all_labels(source)
  chosen = np.concatenate([np.flatnonzero(labels == k) for k in (0, 1)])
  views = data.AugmentedSource(
    source, chosen.tolist(), 5, loaded.task.train_transform, seed=0
  )
  images = np.stack([views[i]['image'] for i in range(len(views))])
  z, _ = loaded.task.apply(loaded.variables, images)
  difference = np.asarray(z[:, 0] - z[:, 1], np.float64).reshape(-1, 5)
  expected = mutual_information(difference).cross_fitted
  assert found['information'] == pytest.approx(expected, abs=1e-3)


def test_the_spread_of_clusters_has_no_scale_and_sees_tight_ones():
  of = classifier(n=300, K=3)
  given = of['labels'], of['weights'], of['bias']
  wide = measuring.cluster_spread(of['features'], *given)
  assert measuring.cluster_spread(5 * of['features'], *given) == pytest.approx(
    wide, rel=1e-5
  )
  means = np.stack(
    [of['features'][of['labels'] == k].mean(0) for k in range(3)]
  )[of['labels']]
  tight = measuring.cluster_spread(0.2 * of['features'] + 0.8 * means, *given)
  assert tight == pytest.approx(0.2 * wide, rel=1e-4)


def test_the_gap_of_the_top_logit_is_that_of_a_model_that_has_one():
  """Right and wrong predictions of equal confidence, two apart."""
  rng = np.random.default_rng(0)
  n = 4000
  gap = rng.uniform(0, 2, n)
  wrong = rng.random(n) < 0.5
  z = np.zeros((n, 4))
  # Over the mean: confidence depends on the margin to one rival only.
  z[:, 0], z[:, 1] = gap + 20, 20
  z[:, 2] = -10.0 - 8.0 * wrong
  z[:, 3] = -z[:, :3].sum(1)
  labels = np.where(wrong, 1, 0)
  of = outputs.Outputs('m', 'p', z.astype(np.float32), labels)
  # The four logits have a mean of 0; shift the top by what the rest balances.
  assert measuring._top_logit_gap(of) == pytest.approx(0, abs=0.1)
  z[wrong, :2] += 2
  z[wrong, 3] -= 4
  of = outputs.Outputs('m', 'p', z.astype(np.float32), labels)
  top = z.max(1)
  assert measuring._top_logit_gap(of) == pytest.approx(-2 / top.std(), rel=0.1)
