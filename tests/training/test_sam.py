"""Sharpness-aware minimisation, the scale of the loss, and mixed images."""

import functools
import json

import jax
import numpy as np
import optax
import pytest

from maxsup_jax import losses
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.classification import check_votes
from maxsup_jax.tasks.mixing import mix
from maxsup_jax.training.optimizers import make_optimizer
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.state import create_state
from maxsup_jax.training.step import make_train_step
from tests.training.linear import Linear, batches, task

RATE = 0.5
CE, SGD = losses.OBJECTIVES['ce'](), optax.sgd(RATE)


@functools.cache
def initial(batch_norm):
  model = Linear(batch_norm)
  return model, create_state(
    task(model).init_variables,
    optax.sgd(1.0),
    losses.OBJECTIVES['ce'](),
    seed=1,
  )


@functools.cache
def build(count, batch_norm, objective, optimizer, config, options):
  """The devices, the first state, and the step, compiled once for all tests."""
  model, state = initial(batch_norm)
  state = state.replace(
    opt_state=optimizer.init(state.params), objective_state=objective.init()
  )
  step = make_train_step(
    task(model, objective, **json.loads(config)),
    optimizer,
    optax.constant_schedule(RATE),
    seed=0,
    **dict(options),
  )
  devices = Devices(jax.devices()[:count])
  return devices, jax.device_get(state), devices.map(step)


def take_steps(
  data,
  count=1,
  batch_norm=False,
  objective=CE,
  optimizer=SGD,
  config=None,
  **options,
):
  """Trains on `count` devices: the states before and after, and the sums."""
  devices, before, step = build(
    count,
    batch_norm,
    objective,
    optimizer,
    json.dumps(config or {}),
    tuple(options.items()),
  )
  state = devices.replicate(before)
  for batch in data:
    state, sums = step(state, devices.shard(batch))
  return before, devices.fetch(state), devices.fetch(sums)


def matrix(params):
  """Kernel and bias of the linear model as one matrix, float64."""
  dense = params['Dense_0']
  return np.vstack([dense['kernel'], dense['bias']]).astype(np.float64)


class Problem:
  """Cross-entropy of a linear model on a batch, in float64 NumPy."""

  def __init__(self, batch, scale=1.0):
    x = batch['image'].reshape(len(batch['label']), -1) / 255.0
    self.x = np.hstack([x, np.ones((len(x), 1))])
    self.y, self.mask, self.scale = batch['label'], batch['mask'], scale

  def gradient(self, w, rows=slice(None)):
    """Of the mean over the real examples among some rows."""
    x, y, mask = self.x[rows], self.y[rows], self.mask[rows]
    z = x @ w
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return self.scale * x.T @ ((p - np.eye(10)[y]) * mask[:, None]) / mask.sum()


def norm(g):
  return np.sqrt((g**2).sum())


@pytest.mark.parametrize(
  ('count', 'clip_value'), [(1, None), (4, None), (4, 0.01)]
)
def test_sam_is_the_definition(count, clip_value):
  """Equations 2 and 3 of Foret et al.; the same on every number of devices."""
  (batch,) = batches(1, 16)
  batch['mask'][[2, 3, 12, 13, 14]] = False
  before, after, sums = take_steps(
    [batch], count, sam_rho=0.7, sam_clip_value=clip_value, loss_scale=3.0
  )
  problem, w = Problem(batch, scale=3.0), matrix(before.params)
  g = problem.gradient(w)
  if clip_value:
    assert (np.abs(g) > clip_value).mean() > 0.1
    g = np.clip(g, -clip_value, clip_value)
  second = problem.gradient(w + 0.7 * g / norm(g))
  np.testing.assert_allclose(matrix(after.params), w - RATE * second, atol=2e-6)
  assert float(sums['grad_norm'][0]) == pytest.approx(norm(second), rel=1e-4)
  # It is not what a plain step does.
  plain = problem.gradient(w)
  assert np.abs(second - plain).max() > 0.01


def test_each_device_may_ascend_along_its_own_gradient():
  """Of the mean over its real examples, some of which are padding."""
  (batch,) = batches(1, 16)
  batch['mask'][[5, 6, 12, 13, 14, 15]] = False
  problem, results = Problem(batch), {}
  for clip_value in (None, 0.05):
    before, after, _ = take_steps(
      [batch], 4, sam_rho=0.7, sam_synced=False, sam_clip_value=clip_value
    )
    w, gradient = matrix(before.params), 0
    for rows in (slice(0, 4), slice(4, 8), slice(8, 12)):
      g = problem.gradient(w, rows)
      if clip_value:
        assert 0.02 < (np.abs(g) > clip_value).mean() < 0.9
        g = np.clip(g, -clip_value, clip_value)
      share = batch['mask'][rows].sum() / batch['mask'].sum()
      gradient += share * problem.gradient(w + 0.7 * g / norm(g), rows)
    np.testing.assert_allclose(
      matrix(after.params), w - RATE * gradient, atol=1e-6
    )
    results[clip_value] = matrix(after.params)
  together = problem.gradient(w)
  together = problem.gradient(w + 0.7 * together / norm(together))
  assert np.abs(results[None] - (w - RATE * together)).max() > 1e-3
  assert np.abs(results[None] - results[0.05]).max() > 1e-3


def test_sam_around_adamw_is_that_of_pytorch():
  """Three steps; elements of both gradients are clipped."""
  torch = pytest.importorskip('torch')
  data = batches(3, 16)
  optimizer = make_optimizer('adamw', 0.02, weight_decay=0.3, clip_value=0.02)
  before, after, _ = take_steps(
    data, optimizer=optimizer, sam_rho=0.2, sam_clip_value=0.02
  )
  w = torch.tensor(matrix(before.params), requires_grad=True)
  adamw = torch.optim.AdamW([w], lr=0.02, weight_decay=0.3)

  def backward(batch):
    x = torch.tensor(Problem(batch).x)
    w.grad = None
    labels = torch.tensor(batch['label'], dtype=torch.long)
    torch.nn.functional.cross_entropy(x @ w, labels).backward()
    torch.nn.utils.clip_grad_value_([w], 0.02)

  for batch in data:
    backward(batch)
    ascent = 0.2 * w.grad / w.grad.norm()
    with torch.no_grad():
      w += ascent
    backward(batch)
    with torch.no_grad():
      w -= ascent
    adamw.step()
  np.testing.assert_allclose(
    matrix(after.params), w.detach().numpy(), atol=2e-5
  )


def test_all_but_the_gradient_is_of_the_first_pass():
  """Statistics, the state of the objective, and the metrics."""
  data = batches(2, 16)
  objective = losses.ols_objective(10, steps_per_epoch=3)
  options = {'batch_norm': True, 'objective': objective}
  _, plain, plain_sums = take_steps(data[:1], **options)
  _, sam, sums = take_steps(data[:1], sam_rho=0.5, **options)
  jax.tree.map(
    np.testing.assert_array_equal,
    (plain.batch_stats, plain.objective_state),
    (sam.batch_stats, sam.objective_state),
  )
  for name in ('nll', 'accuracy', 'objective'):
    assert sums[name] == plain_sums[name]
  assert sums['grad_norm'] != plain_sums['grad_norm']
  # The next step starts elsewhere.
  _, _, plain_sums = take_steps(data, **options)
  _, _, sums = take_steps(data, sam_rho=0.5, **options)
  assert sums['nll'] != plain_sums['nll']


def test_no_gradient_no_ascent():
  nothing = losses.Objective(
    tuple, lambda state, z, labels, **_: (0 * (z**2).sum(-1), state)
  )
  before, after, sums = take_steps(
    batches(1, 8), objective=nothing, sam_rho=0.2, sam_clip_value=1.0
  )
  np.testing.assert_array_equal(matrix(after.params), matrix(before.params))
  assert float(sums['grad_norm'][0]) == 0


def test_the_scale_multiplies_the_gradient_only():
  data = batches(1, 8)
  before, plain, sums = take_steps(data)
  _, scaled, scaled_sums = take_steps(data, loss_scale=3.0)
  w = matrix(before.params)
  np.testing.assert_allclose(
    matrix(scaled.params) - w, 3 * (matrix(plain.params) - w), atol=1e-6
  )
  for name in ('nll', 'accuracy', 'top5', 'objective'):
    assert sums[name] == scaled_sums[name]
  assert float(scaled_sums['grad_norm'][0]) == pytest.approx(
    3 * float(sums['grad_norm'][0]), rel=1e-5
  )


MIXED = {'mixup': 0.8, 'cutmix': 1.0, 'mode': 'pair'}
SCALED = {'mean': (0.5,), 'std': (0.25,)}
mix_digits = jax.jit(functools.partial(mix, num_classes=10, **MIXED))


@pytest.mark.parametrize('count', [1, 4])
def test_a_step_on_mixed_images(count):
  """That on what `mix` gives, of the normalised images, in each step anew."""
  (batch,) = batches(1, 16)
  config = {'mixing': MIXED, 'dataset': SCALED}
  before, after, sums = take_steps([batch], count, config=config)
  x = np.float32((batch['image'] / 255 - 0.5) / 0.25)
  mixed = [
    mix_digits(jax.random.fold_in(jax.random.key(0), step), x, batch['label'])
    for step in (0, 1)
  ]
  images, labels = map(np.float64, mixed[0])
  images = np.hstack([images.reshape(16, -1), np.ones((16, 1))])
  w = matrix(before.params)
  z = images @ w
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  gradient = images.T @ (np.exp(log_p) - labels) / 16
  np.testing.assert_allclose(
    matrix(after.params), w - RATE * gradient, atol=2e-6
  )
  # The metrics are those of the mixed images and labels.
  nll = -(labels * log_p).sum()
  assert float(sums['nll'][0]) == pytest.approx(nll, rel=1e-5)
  assert float(sums['objective'][0]) == pytest.approx(nll, rel=1e-5)
  assert sums['accuracy'][0] == (z.argmax(-1) == labels.argmax(-1)).sum()
  assert np.abs(mixed[0][0] - x).max() > 1
  assert np.abs(mixed[0][0] - mixed[1][0]).max() > 1


def test_four_devices_mix_as_one_does():
  """With padding, which is in no pair that is mixed."""
  (batch,) = batches(1, 16)
  batch['mask'][[3, 12, 13, 14]] = False
  batch['image'][[3, 12, 13, 14]] = 0
  config = {'mixing': MIXED, 'dataset': SCALED}
  (_, one, sums_1), (_, four, sums_4) = (
    take_steps([batch], count, config=config) for count in (1, 4)
  )
  np.testing.assert_allclose(matrix(four.params), matrix(one.params), atol=1e-6)
  for name in ('nll', 'objective'):
    assert sums_1[name][0] == pytest.approx(sums_4[name][0], rel=1e-5)
    assert sums_1[name][1] == sums_4[name][1] == 12
  # What is in the padding has no influence.
  batch['image'][[3, 12, 13, 14]] = 255
  _, other, _ = take_steps([batch], 4, config=config)
  np.testing.assert_array_equal(matrix(other.params), matrix(four.params))


def test_mixing_that_is_off_leaves_class_ids():
  """Objectives that refuse distributions train."""
  _, after, _ = take_steps(
    batches(1, 8),
    objective=losses.OBJECTIVES['focal'](),
    config={'mixing': {'mixup': 1.0, 'probability': 0.0}},
  )
  assert np.isfinite(matrix(after.params)).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'loss_scale': 0.0}, 'config.loss_scale is 0.0; expected above 0'),
    ({'loss_scale': float('inf')}, 'config.loss_scale is inf'),
    ({'sam_rho': -0.1}, 'config.optimizer.sam_rho is -0.1'),
    ({'sam_clip_value': 0.0}, 'config.optimizer.clip_value is 0.0'),
  ],
)
def test_refuses(options, message):
  with pytest.raises(UsageError, match=message):
    make_train_step(task(Linear()), optax.sgd(1.0), float, seed=0, **options)


def test_votes_need_a_linear_head_with_a_bias():
  class Headless(Linear):
    def __call__(self, images, train=False):
      logits, outputs = super().__call__(images, train)
      return logits, outputs | {'feature_map': images}

  votes = losses.OBJECTIVES['zipf'](ranking='votes')
  check_votes(task(Linear()))
  with pytest.raises(UsageError, match='with a feature map'):
    check_votes(task(Linear(), votes))
  with pytest.raises(UsageError, match='has only other parameters'):
    check_votes(task(Headless(), votes))
