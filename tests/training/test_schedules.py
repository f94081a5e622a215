import math

import jax
import numpy as np
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.training.schedules import SCHEDULES, learning_rate_schedule

TOTAL, WARMUP, PEAK = 100, 10, 0.4


def cosine(step):
  if step < WARMUP:
    return 0.01 + (PEAK - 0.01) * step / WARMUP
  progress = (step - WARMUP) / (TOTAL - WARMUP)
  return 0.02 + (PEAK - 0.02) * (1 + math.cos(math.pi * progress)) / 2


def stepped(step):
  if step < WARMUP:
    return 0.01 + (PEAK - 0.01) * step / WARMUP
  return PEAK * 0.5 ** ((step >= 30) + (step >= 60))


def constant(step):
  if step < WARMUP:
    return 0.01 + (PEAK - 0.01) * step / WARMUP
  return PEAK


def exponential(step):
  if step < WARMUP:
    return 0.01 + (PEAK - 0.01) * step / WARMUP
  return PEAK * 0.5 ** ((step - WARMUP) // 7)


def linear(step):
  if step < WARMUP:
    return 0.01 + (PEAK - 0.01) * step / WARMUP
  return PEAK + (0.02 - PEAK) * (step - WARMUP) / (TOTAL - WARMUP)


def cosine_from_start(step):
  if step < WARMUP:
    return 0.01 + (PEAK - 0.01) * step / WARMUP
  return 0.02 + (PEAK - 0.02) * (1 + math.cos(math.pi * step / TOTAL)) / 2


EXPECTED = [cosine, stepped, exponential, linear, constant, cosine_from_start]


@pytest.mark.parametrize('per', ['step', 'epoch'])
@pytest.mark.parametrize('expected', EXPECTED)
def test_matches_the_formula_at_every_step(expected, per):
  """The warm-up ends in the middle of an epoch of seven steps."""
  name = {stepped: 'step', cosine_from_start: 'cosine'}.get(
    expected, expected.__name__
  )
  rate = learning_rate_schedule(
    name,
    PEAK,
    total_steps=TOTAL,
    warmup_steps=WARMUP,
    warmup_start=0.01,
    end=0.02,
    milestones=(30, 60),
    factor=0.5,
    per=per,
    cosine_from='start' if expected is cosine_from_start else 'warmup',
    steps_per_epoch=7,
  )
  steps = np.arange(TOTAL)
  values = jax.jit(jax.vmap(rate))(steps)
  if per == 'epoch':
    steps = steps // 7 * 7
  np.testing.assert_allclose(
    values, [expected(int(s)) for s in steps], rtol=1e-5
  )
  # Of Python and NumPy numbers, too.
  assert float(rate(33)) == pytest.approx(float(values[33]), rel=1e-6)
  assert float(rate(np.int64(5))) == pytest.approx(float(values[5]), rel=1e-6)


EPOCHS, STEPS = 30, 11


def torch_values(make):
  """The learning rate of every epoch, of a scheduler stepped after each."""
  torch = pytest.importorskip('torch')
  optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
  scheduler = make(torch.optim.lr_scheduler, optimizer)
  values = []
  for _ in range(EPOCHS):
    values.append(optimizer.param_groups[0]['lr'])
    optimizer.step()
    scheduler.step()
  return values


def warmed_up(s, optimizer, after):
  warmup = s.LinearLR(optimizer, start_factor=1e-4, total_iters=5)
  return s.SequentialLR(optimizer, [warmup, after], milestones=[5])


TORCH = {
  'StepLR': (
    {'name': 'step', 'milestones': (10, 20)},
    lambda s, o: s.StepLR(o, 10, 0.1),
  ),
  'MultiStepLR': (
    {'name': 'step', 'milestones': (12, 20, 27), 'factor': 0.2},
    lambda s, o: s.MultiStepLR(o, [12, 20, 27], 0.2),
  ),
  'CosineAnnealingLR': (
    {'name': 'cosine', 'end': 0.003},
    lambda s, o: s.CosineAnnealingLR(o, EPOCHS, eta_min=0.003),
  ),
  'ExponentialLR': (
    {'name': 'exponential', 'factor': 0.98},
    lambda s, o: s.ExponentialLR(o, 0.98),
  ),
  'PolynomialLR': ({'name': 'linear'}, lambda s, o: s.PolynomialLR(o, EPOCHS)),
  'LinearLR, CosineAnnealingLR': (
    {'name': 'cosine', 'warmup': 5},
    lambda s, o: warmed_up(s, o, s.CosineAnnealingLR(o, EPOCHS - 5)),
  ),
  'LinearLR, ExponentialLR': (
    {'name': 'exponential', 'warmup': 5, 'factor': 0.98},
    lambda s, o: warmed_up(s, o, s.ExponentialLR(o, 0.98)),
  ),
  'LinearLR, MultiStepLR': (
    {'name': 'step', 'warmup': 5, 'milestones': (12, 20)},
    lambda s, o: warmed_up(s, o, s.MultiStepLR(o, [7, 15], 0.1)),
  ),
}


@pytest.mark.parametrize('name', TORCH)
@pytest.mark.filterwarnings('ignore::UserWarning:torch')
def test_per_epoch_is_pytorchs(name):
  """At the first and the last step of every epoch."""
  fields, make = TORCH[name]
  fields = dict(fields)
  rate = learning_rate_schedule(
    fields.pop('name'),
    PEAK,
    total_steps=EPOCHS * STEPS,
    warmup_steps=fields.pop('warmup', 0) * STEPS,
    warmup_start=1e-4 * PEAK,
    milestones=[m * STEPS for m in fields.pop('milestones', ())],
    per='epoch',
    steps_per_epoch=STEPS,
    **fields,
  )
  expected = torch_values(make)
  first = np.arange(EPOCHS) * STEPS
  for steps in (first, first + STEPS - 1):
    np.testing.assert_allclose(rate(steps), expected, rtol=2e-5, atol=1e-8)


GOLDENS = {
  0: 1e-6,
  1: 0.0002008,
  4: 0.0008002,
  5: 0.00099932162,
  6: 0.000999023231,
  100: 0.0007525,
  150: 0.000505,
  299: 1.00271412e-05,
}


def test_the_cosine_of_timm():
  """DeiT: 300 epochs, 5 of them warm-up from 1e-6, from 1e-3 to 1e-5.

  The numbers are those of timm 1.0.31: CosineLRScheduler(optimizer, 300,
  lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)._get_lr(epoch).
  """
  rate = learning_rate_schedule(
    'cosine',
    1e-3,
    total_steps=300 * 1251,
    warmup_steps=5 * 1251,
    warmup_start=1e-6,
    end=1e-5,
    per='epoch',
    cosine_from='start',
    steps_per_epoch=1251,
  )
  for epoch, expected in GOLDENS.items():
    for step in (0, 1250):
      value = float(rate(1251 * epoch + step))
      assert value == pytest.approx(expected, rel=1e-5)


def test_the_warmup_of_the_long_tailed_recipe():
  """A factor 1/3 (1 - e/5) + e/5 at e < 5, a hundredth after e = 120 and 160.

  There the scheduler is stepped as an epoch starts: the epochs are e = 1, ...,
  200. So the first has 7/15, and the fifth, after a warm-up of four, has 1.
  """
  rate = learning_rate_schedule(
    'step',
    0.2,
    total_steps=200 * STEPS,
    warmup_steps=4 * STEPS,
    warmup_start=0.2 * 7 / 15,
    milestones=(120 * STEPS, 160 * STEPS),
    factor=0.01,
    per='epoch',
    steps_per_epoch=STEPS,
  )
  for e in range(1, 201):
    factor = (1 - e / 5) / 3 + e / 5 if e < 5 else 1
    factor *= 0.01 ** ((e > 120) + (e > 160))
    for step in ((e - 1) * STEPS, e * STEPS - 1):
      assert float(rate(step)) == pytest.approx(0.2 * factor, rel=1e-5)


def test_without_warmup_the_first_step_has_the_peak():
  # One needs a warm-up.
  for name in set(SCHEDULES) - {'inverse_sqrt'}:
    rate = learning_rate_schedule(
      name, PEAK, total_steps=TOTAL, milestones=(50,), steps_per_epoch=10
    )
    assert float(rate(0)) == pytest.approx(PEAK)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'name': 'poly'}, 'expected one of cosine, step, exponential'),
    ({'peak': 0.0}, 'peak is 0.0'),
    ({'peak': float('nan')}, 'peak is nan'),
    ({'warmup_steps': 100}, 'warmup is 100 steps'),
    ({'milestones': (60, 30)}, 'increasing'),
    ({'milestones': (30, 30)}, 'increasing'),
    ({'milestones': (5, 30), 'warmup_steps': 5}, 'after 5'),
    ({'milestones': (3, 30), 'warmup_steps': 5}, 'after 5'),
    ({'per': 'epochs'}, "did you mean 'epoch'"),
    ({'cosine_from': 'end'}, "cosine_from is 'end'; expected one of warmup"),
    ({'per': 'epoch'}, 'steps_per_epoch'),
    ({'name': 'exponential'}, 'steps_per_epoch'),
  ],
)
def test_refuses(kwargs, message):
  kwargs = {'name': 'cosine', 'peak': PEAK, 'total_steps': TOTAL} | kwargs
  with pytest.raises(UsageError, match=message):
    learning_rate_schedule(**kwargs)
