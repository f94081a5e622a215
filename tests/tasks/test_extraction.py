import jax
import numpy as np
import pytest

from maxsup_jax import tasks
from maxsup_jax.tasks import resolve
from maxsup_jax.tasks.extraction import outputs as extract
from maxsup_jax.tasks.images import normalize
from maxsup_jax.training.evaluation import evaluate
from maxsup_jax.training.parallel import Devices

pytestmark = pytest.mark.usefixtures('cached_compilation')

CONFIG = {
  'duration': '1 step',
  'batch_size': 32,
  # 355 test images: the last of the batches is padded on any of the devices.
  'eval_batch_size': 100,
  'dataset': {'name': 'digits', 'mean': (0.3,), 'std': (0.4,)},
  'model': {'name': 'tests.nets:Small'},
}


def extracted(run, state):
  batches = list(
    extract(
      run.devices.map(run.task.extract_step()),
      run.devices.replicate(state.variables()),
      run.task.eval_batches(),
      run.devices,
    )
  )
  assert len(batches) == 4
  return {
    name: np.concatenate([b[name] for b in batches]) for name in batches[0]
  }


@pytest.mark.parametrize('count', [1, 4])
def test_gives_every_example_once_in_order(data_dir, count):
  devices = Devices(jax.devices()[:count])
  run = tasks.build(resolve(CONFIG), data_dir=data_dir, devices=devices)
  state = run.init_state()
  found = extracted(run, state)
  source = run.task.eval_source
  examples = [source[i] for i in range(len(source))]
  labels = np.array([e['label'] for e in examples])
  assert found['labels'].dtype == np.int32
  np.testing.assert_array_equal(found['labels'], labels)

  images = np.stack([e['image'] for e in examples])
  logits, outputs = run.task.model.apply(
    state.variables(), normalize(images, (0.3,), (0.4,)), train=False
  )
  for name, expected in (
    ('logits', logits),
    ('features', outputs['penultimate']),
  ):
    assert found[name].dtype == np.float32
    np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    # In another order it would not be close.
    assert not np.allclose(found[name][::-1], expected, rtol=1e-2, atol=1e-3)
  head = state.params['head']
  np.testing.assert_allclose(
    found['logits'],
    found['features'] @ np.asarray(head['kernel']) + np.asarray(head['bias']),
    rtol=1e-4,
    atol=1e-5,
  )


def test_agrees_with_the_evaluation(data_dir):
  run = tasks.build(resolve(CONFIG), data_dir=data_dir)
  state = run.init_state()
  found = extracted(run, state)
  means = run.task.report(
    evaluate(
      run.devices.map(run.eval_step()),
      run.devices.replicate(state),
      run.task.eval_batches(),
      run.devices,
    )
  )
  logits, labels = found['logits'].astype(np.float64), found['labels']
  log_sums = np.log(np.exp(logits).sum(-1))
  nll = (log_sums - logits[np.arange(len(labels)), labels]).mean()
  assert means['examples'] == len(labels) == 355
  assert means['accuracy'] == (logits.argmax(-1) == labels).mean()
  assert means['nll'] == pytest.approx(nll, rel=1e-6)
