import math

import jax
import numpy as np
import pytest

from maxsup_jax._errors import UsageError
from maxsup_jax.training.schedules import learning_rate_schedule

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


@pytest.mark.parametrize('expected', [cosine, stepped, constant])
def test_matches_the_formula_at_every_step(expected):
  name = 'step' if expected is stepped else expected.__name__
  rate = learning_rate_schedule(
    name,
    PEAK,
    total_steps=TOTAL,
    warmup_steps=WARMUP,
    warmup_start=0.01,
    end=0.02,
    milestones=(30, 60),
    factor=0.5,
  )
  steps = np.arange(TOTAL)
  values = jax.jit(jax.vmap(rate))(steps)
  np.testing.assert_allclose(
    values, [expected(s) for s in range(TOTAL)], rtol=1e-5
  )


def test_without_warmup_the_first_step_has_the_peak():
  for name in ('cosine', 'step', 'constant'):
    rate = learning_rate_schedule(
      name, PEAK, total_steps=TOTAL, milestones=(50,)
    )
    assert float(rate(0)) == pytest.approx(PEAK)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'name': 'linear'}, 'known schedules: cosine, step, constant'),
    ({'peak': 0.0}, 'learning_rate is 0.0'),
    ({'peak': float('nan')}, 'learning_rate is nan'),
    ({'warmup_steps': 100}, 'warmup is 100 steps'),
    ({'milestones': (60, 30)}, 'increasing'),
    ({'milestones': (30, 30)}, 'increasing'),
    ({'milestones': (5, 30), 'warmup_steps': 5}, 'after the 5'),
  ],
)
def test_refuses(kwargs, message):
  kwargs = {'name': 'cosine', 'peak': PEAK, 'total_steps': TOTAL} | kwargs
  with pytest.raises(UsageError, match=message):
    learning_rate_schedule(**kwargs)
