import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxsup_jax import losses, models
from maxsup_jax.tasks.images import normalize
from maxsup_jax.training.evaluation import evaluate
from maxsup_jax.training.optimizers import make_optimizer
from maxsup_jax.training.parallel import AXIS, Devices
from maxsup_jax.training.state import create_state
from maxsup_jax.training.step import make_eval_step, make_train_step
from maxsup_jax.training.sums import Window
from tests.training.linear import SHAPE, Linear, batches, task

RNG = np.random.default_rng(0)
RESNET = functools.partial(models.create_model, 'resnet8', 10, width=8)
SLOW = pytest.mark.slow
MODELS = {
  'linear': lambda: Linear(True, AXIS),
  'resnet': functools.partial(RESNET, batch_norm_axis=AXIS, batch_axis=AXIS),
  'vit': lambda: models.ViT(
    num_classes=10,
    patch_size=4,
    dim=16,
    depth=2,
    heads=2,
    drop_path=0.5,
    batch_axis=AXIS,
  ),
}


def train(
  model, devices, data, *, ema_decay=None, objective=None, trail=None, **options
):
  """Trains on the batches; the state of each step goes into `trail`."""
  trail = [] if trail is None else trail
  objective = objective or losses.OBJECTIVES['maxsup'](0.1)
  optimizer = make_optimizer(
    'sgd',
    0.05,
    weight_decay=1e-3,
    clip_norm=5.0,
    decay_mask=models.decay_mask(model, (1, *SHAPE)),
  )
  trained = task(model, objective, dataset={'mean': (0.5,), 'std': (0.25,)})
  state = create_state(
    trained.init_variables,
    optimizer,
    objective,
    seed=0,
    ema=ema_decay is not None,
  )
  state = devices.replicate(state)
  step = devices.map(
    make_train_step(
      trained,
      optimizer,
      optax.constant_schedule(0.05),
      seed=0,
      ema_decay=ema_decay,
      **options,
    ),
    donate=True,
  )
  sums = []
  trail.append(devices.fetch(state))
  for batch in devices.stream(data):
    state, s = step(state, batch)
    sums.append(devices.fetch(s))
    trail.append(devices.fetch(state))
  return state, sums


@pytest.mark.parametrize(
  'name',
  ['linear', *(pytest.param(x, marks=SLOW) for x in ('resnet', 'vit'))],
)
def test_four_devices_train_as_one_does(name):
  """8 steps: the same parameters, statistics and evaluation."""
  data = batches(8, 16)
  held_out = batches(3, 16, start=20)
  held_out[-1]['mask'][5:] = False
  results = {}
  for count in (1, 4):
    devices = Devices(jax.devices()[:count])
    model = MODELS[name]()
    state, sums = train(model, devices, data)
    evaluated = task(
      model,
      losses.OBJECTIVES['maxsup'](0.1),
      dataset={'mean': (0.5,), 'std': (0.25,)},
    )
    eval_step = devices.map(make_eval_step(evaluated))
    metrics = evaluated.report(evaluate(eval_step, state, held_out, devices))
    results[count] = devices.fetch(state), sums, metrics
  (one, sums_1, metrics_1), (four, sums_4, metrics_4) = results.values()
  assert int(one.step) == int(four.step) == 8
  changed = jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    (one.params, one.batch_stats, one.opt_state),
    (four.params, four.batch_stats, four.opt_state),
  )
  assert jax.tree.leaves(changed) == []
  assert metrics_1['examples'] == metrics_4['examples'] == 37
  assert metrics_1['accuracy'] == metrics_4['accuracy']
  assert metrics_1['top5'] == metrics_4['top5']
  for key in ('nll', 'ece', 'objective'):
    assert metrics_1[key] == pytest.approx(metrics_4[key], abs=1e-5)
  assert sums_1[0]['nll'][1] == sums_4[0]['nll'][1] == 16


@pytest.mark.slow
def test_online_smoothing_on_four_devices_is_that_on_one():
  """Three epochs of five steps, with examples that are masked."""
  data = batches(15, 16)
  for batch in data[::3]:
    batch['mask'][12:] = False  # All of the last device.
  objective = losses.ols_objective(10, steps_per_epoch=5, axis_name=AXIS)
  one, four = (
    Devices.fetch(
      train(
        RESNET(batch_norm_axis=AXIS),
        Devices(jax.devices()[:n]),
        data,
        objective=objective,
      )[0]
    )
    for n in (1, 4)
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    (one.params, one.objective_state),
    (four.params, four.objective_state),
  )
  targets = one.objective_state.targets
  np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-5)
  assert np.abs(targets - 0.1).max() > 0.1
  assert not one.objective_state.counts.any()


def test_per_device_statistics_do_depend_on_the_devices():
  """What cross-device BatchNorm is for; and that the test above can fail."""
  data = batches(3, 16)
  states = [
    Devices.fetch(train(Linear(True), Devices(jax.devices()[:n]), data)[0])
    for n in (1, 4)
  ]
  difference = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), *[s.params for s in states]
  )
  assert max(jax.tree.leaves(difference)) > 1e-3


def test_running_statistics_are_averaged_over_the_devices():
  (batch,) = batches(1, 16)
  state, _ = train(Linear(True), Devices(jax.devices()[:4]), [batch])
  parts = (batch['image'].reshape(4, 4, -1) / 255 - 0.5) / 0.25
  stats = jax.device_get(state.batch_stats)['BatchNorm_0']
  for name, values, before in (
    ('mean', parts.mean(1), 0),
    ('var', parts.var(1), 1),
  ):
    expected = 0.99 * before + 0.01 * values.mean(0)
    for device in range(4):
      np.testing.assert_allclose(stats[name][device], expected, atol=1e-6)


@pytest.mark.parametrize(
  ('count', 'parts', 'backend'),
  [(1, 1, 'cpu'), (4, 1, 'cpu'), (4, 2, 'cpu'), (1, 4, 'gpu')],
)
def test_one_step_is_the_closed_form(count, parts, backend, monkeypatch):
  """Plain gradient descent on MaxSup, with a mask, in float64 NumPy.

  Also in parts, of which some have more masked examples than others.
  """
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  model, devices = Linear(), Devices(jax.devices()[:count])
  objective = losses.OBJECTIVES['maxsup'](0.2)
  (batch,) = batches(1, 8)
  batch['mask'][[2, 3, 7]] = False
  optimizer = optax.sgd(0.1)
  trained = task(model, objective)
  state = create_state(trained.init_variables, optimizer, objective, seed=1)
  step = make_train_step(
    trained, optimizer, optax.constant_schedule(0.1), seed=0, accumulate=parts
  )
  new, sums = devices.map(step)(devices.replicate(state), devices.shard(batch))
  new, sums = devices.fetch(new), devices.fetch(sums)

  x = batch['image'].reshape(8, -1) / 255.0
  w = np.asarray(state.params['Dense_0']['kernel'], np.float64)
  z = x @ w
  p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  gradient = p - np.eye(10)[batch['label']] - 0.2 / 10
  gradient[np.arange(8), z.argmax(-1)] += 0.2
  gradient *= batch['mask'][:, None] / batch['mask'].sum()
  np.testing.assert_allclose(
    new.params['Dense_0']['kernel'], w - 0.1 * x.T @ gradient, atol=1e-6
  )
  nll = -np.log(p[np.arange(8), batch['label']])
  loss = nll + 0.2 * (z.max(-1) - z.mean(-1))
  assert Window(sums).means()['nll'] == pytest.approx(
    nll[batch['mask']].mean(), rel=1e-5
  )
  assert Window(sums).means()['objective'] == pytest.approx(
    loss[batch['mask']].mean(), rel=1e-5
  )
  norm = np.sqrt(
    (x.T @ gradient).ravel() @ (x.T @ gradient).ravel()
    + (gradient.sum(0) ** 2).sum()
  )
  assert float(sums['grad_norm'][0]) == pytest.approx(norm, rel=1e-4)
  assert float(sums['update_norm'][0]) == pytest.approx(0.1 * norm, rel=1e-4)


@pytest.mark.parametrize('warmup', [None, 'tensorflow'])
def test_moving_averages(warmup):
  trail, devices = [], Devices(jax.devices()[:1])
  options = {'ema_decay': 0.15, 'ema_warmup': warmup, 'trail': trail}
  train(Linear(True), devices, batches(3, 8), **options)
  expected = jax.tree.map(
    np.float64, {'params': trail[0].params, 'batch_stats': trail[0].batch_stats}
  )
  for step, state in enumerate(trail[1:]):
    d = 0.15 if warmup is None else min(0.15, (1 + step) / (10 + step))
    current = {'params': state.params, 'batch_stats': state.batch_stats}
    expected = jax.tree.map(
      lambda e, c, d=d: d * e + (1 - d) * c, expected, current
    )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    trail[-1].ema,
    expected,
  )
  assert trail[-1].variables(ema=True)['params'] is trail[-1].ema['params']
  assert trail[-1].variables()['params'] is trail[-1].params


def test_normalize():
  images = RNG.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  expected = (images / 255.0 - np.array(mean)) / np.array(std)
  normalized = normalize(images, mean, std)
  assert normalized.dtype == jnp.float32
  np.testing.assert_allclose(normalized, expected, atol=1e-6)
  ready = np.float32(expected)
  np.testing.assert_array_equal(normalize(ready, mean, std), ready)
