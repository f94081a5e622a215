import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maxsup_jax.errors import UsageError
from maxsup_jax.training.optimizers import make_optimizer

RNG = np.random.default_rng(0)
PARAMS = {
  'w': RNG.normal(size=(4, 3)).astype(np.float32),
  'b': RNG.normal(size=3).astype(np.float32),
}
GRADS = [
  jax.tree.map(lambda p: RNG.normal(size=p.shape).astype(np.float32), PARAMS)
  for _ in range(5)
]
DECAYED = {'w': True, 'b': False}


def run(**kwargs):
  optimizer = make_optimizer(**kwargs, decay_mask=DECAYED)
  params, state = PARAMS, optimizer.init(PARAMS)
  for grads in GRADS:
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def run_torch(make, clip_norm=None, clip_value=None, decay=0.0):
  """With `decay` as a term of the loss, before the clipping."""
  torch = pytest.importorskip('torch')
  params = {k: torch.tensor(v, requires_grad=True) for k, v in PARAMS.items()}
  optimizer = make(torch, params)
  for grads in GRADS:
    for name, p in params.items():
      p.grad = torch.tensor(grads[name])
    if clip_value:
      torch.nn.utils.clip_grad_value_(params.values(), clip_value)
    params['w'].grad += decay * params['w'].detach()
    if clip_norm:
      torch.nn.utils.clip_grad_norm_(params.values(), clip_norm)
    optimizer.step()
  return {k: p.detach().numpy() for k, p in params.items()}


@pytest.mark.parametrize('nesterov', [True, False])
@pytest.mark.parametrize(
  ('clip_norm', 'clip_value'), [(None, None), (1.0, None), (1.0, 0.5)]
)
def test_sgd_is_torchs(nesterov, clip_norm, clip_value):
  ours = run(
    name='sgd',
    learning_rate=0.1,
    weight_decay=0.05,
    momentum=0.9,
    nesterov=nesterov,
    clip_norm=clip_norm,
    clip_value=clip_value,
  )
  theirs = run_torch(
    lambda torch, p: torch.optim.SGD(
      [
        {'params': [p['w']], 'weight_decay': 0.05},
        {'params': [p['b']], 'weight_decay': 0.0},
      ],
      lr=0.1,
      momentum=0.9,
      nesterov=nesterov,
    ),
    clip_norm,
    clip_value,
  )
  for name in PARAMS:
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('clip_value', [None, 0.5])
def test_the_decay_is_clipped_with_the_gradient_where_asked(clip_value):
  """As where it is a term of the loss: torch's optimizer knows of none."""
  fields = {
    'name': 'sgd',
    'learning_rate': 0.1,
    'weight_decay': 0.5,
    'clip_norm': 1.0,
    'clip_value': clip_value,
  }
  ours = run(**fields, clip_decayed=True)
  theirs = run_torch(
    lambda torch, p: torch.optim.SGD(
      p.values(), lr=0.1, momentum=0.9, nesterov=True
    ),
    clip_norm=1.0,
    clip_value=clip_value,
    decay=0.5,
  )
  for name in PARAMS:
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
  assert np.abs(run(**fields)['w'] - ours['w']).max() > 0.01


@pytest.mark.parametrize(
  ('clip_norm', 'clip_value'), [(None, None), (1.0, None), (1.0, 0.5)]
)
def test_adamw_is_torchs(clip_norm, clip_value):
  ours = run(
    name='adamw',
    learning_rate=0.01,
    weight_decay=0.1,
    clip_norm=clip_norm,
    clip_value=clip_value,
  )
  theirs = run_torch(
    lambda torch, p: torch.optim.AdamW(
      [
        {'params': [p['w']], 'weight_decay': 0.1},
        {'params': [p['b']], 'weight_decay': 0.0},
      ],
      lr=0.01,
    ),
    clip_norm,
    clip_value,
  )
  for name in PARAMS:
    np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_sgd_by_hand():
  """Two Nesterov steps of one number, without torch."""
  optimizer = make_optimizer('sgd', 0.1, weight_decay=0.5, momentum=0.9)
  w, m = 1.0, 0.0
  params, state = {'w': jnp.array(w)}, None
  state = optimizer.init(params)
  for g in (2.0, -1.0):
    updates, state = optimizer.update({'w': jnp.array(g)}, state, params)
    params = optax.apply_updates(params, updates)
    d = g + 0.5 * w
    m = 0.9 * m + d
    w -= 0.1 * (d + 0.9 * m)
  assert float(params['w']) == pytest.approx(w, rel=1e-6)


@pytest.mark.parametrize(
  ('kwargs', 'message'),
  [
    ({'name': 'lars'}, 'expected one of sgd, adamw'),
    ({'weight_decay': -1.0}, 'weight_decay is -1.0'),
    ({'clip_norm': 0.0}, 'clip_norm is 0.0'),
    ({'clip_value': -1.0}, 'clip_value is -1.0'),
    ({'name': 'adamw', 'clip_decayed': True}, "'adamw' does not add its decay"),
    ({'clip_decayed': True}, 'expected clip_norm as well'),
    ({'momentum': 1.0}, 'momentum is 1.0'),
    ({'b2': -0.1}, 'b2 is -0.1'),
  ],
)
def test_refuses(kwargs, message):
  with pytest.raises(UsageError, match=message):
    make_optimizer(**({'name': 'sgd', 'learning_rate': 0.1} | kwargs))
