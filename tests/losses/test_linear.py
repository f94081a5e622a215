"""The losses of a linear layer against the same losses of its logits."""

import functools
import math
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from maxsup_jax import losses
from maxsup_jax.losses import _linear_blocks

N, D, K = 6, 3, 11
RNG = np.random.default_rng(0)
# Small whole numbers: products are exact, and tops often tie, also at zero.
FEATURES = np.concatenate([RNG.integers(-2, 3, (N - 1, D)), np.zeros((1, D))])
KERNEL = RNG.integers(-2, 3, (D, K)) / 2
KERNEL[:, 7] = KERNEL[:, 2]
BIAS = RNG.integers(-1, 2, K) / 2
LABELS = np.array([3, 0, 10, 7, 4, 2])
ALPHA = np.linspace(0.1, 0.9, N)
COTANGENTS = RNG.normal(size=N)
REAL = np.arange(N) != 1
EXISTS = (np.arange(K) < 9) & (np.arange(K) > 0)
WEIGHTS = np.where(np.arange(K) == 4, 0, 1.5 + np.cos(np.arange(K)))
PADDED = np.where(REAL & (LABELS < 9), LABELS, 5)

smooth = losses.label_smoothing_cross_entropy
linear_smooth = losses.linear_label_smoothing_cross_entropy
PAIRS = {
  'ce': (losses.linear_cross_entropy, losses.cross_entropy),
  'ls': (linear_smooth, smooth),
  'others': (
    functools.partial(linear_smooth, convention='others'),
    functools.partial(smooth, convention='others'),
  ),
  'maxsup': (losses.linear_maxsup_cross_entropy, losses.maxsup_cross_entropy),
  'penalty': (losses.linear_max_suppression, losses.max_suppression),
}


def arguments_of(name, labels, alpha):
  return {'ce': (labels,), 'penalty': ()}.get(name, (labels, alpha))


def fused(name, features, kernel, bias, labels, alpha, **options):
  given = arguments_of(name, labels, alpha)
  if name == 'penalty':
    options.pop('class_weights', None)
  return PAIRS[name][0](features, kernel, *given, bias=bias, **options)


def dense(
  name,
  features,
  kernel,
  bias,
  labels,
  alpha,
  *,
  where=None,
  where_classes=None,
  soft_cap=None,
  transposed=False,
  **options,
):
  """By the losses of logits; what concerns blocks changes nothing."""
  for speed in ('block_size', 'implementation', 'axis_name'):
    options.pop(speed, None)
  if name == 'penalty':
    options.pop('class_weights', None)
  if where is not None:
    features = jnp.where(where[..., None], features, 0)
  logits = features @ (kernel.T if transposed else kernel)
  if bias is not None:
    logits = logits + bias
  if soft_cap is not None:
    logits = soft_cap * jnp.tanh(logits / soft_cap)
  if where_classes is not None:
    full = jnp.ones(logits.shape[:-1], bool) if where is None else where
    where = full[..., None] & where_classes
  given = arguments_of(name, labels, alpha)
  return PAIRS[name][1](logits, *given, where=where, **options)


def with_gradients(loss, cotangents=COTANGENTS, names=PAIRS, **options):
  """Of each loss the values, and gradients in all arguments."""

  def program(features, kernel, bias, labels, alpha):
    found = {}
    for name in names:
      values, back = jax.vjp(
        lambda *x, name=name: loss(name, *x[:3], labels, x[3], **options),
        *(features, kernel, bias, alpha),
      )
      found[name] = values, *back(jnp.asarray(cotangents, values.dtype))
    return found

  return program


def compare(arguments, tolerance=1e-13, names=('ls', 'maxsup'), **options):
  """Values and all gradients are those of the dense losses.

  These are not compiled: XLA may compute a logit twice, in different ways, and
  then finds none that equals the top one.
  """
  found = jax.jit(with_gradients(fused, names=names, **options))(*arguments)
  expected = with_gradients(dense, names=names, **options)(*arguments)
  for name in names:
    for a, b in zip(
      jax.tree.leaves(found[name]), jax.tree.leaves(expected[name]), strict=True
    ):
      scale = tolerance * max(np.nanmax(np.abs(b), initial=0), 1)
      np.testing.assert_allclose(a, b, 0, scale, err_msg=name)


ALL = FEATURES, KERNEL, BIAS, LABELS, ALPHA
LAYER = {
  'one class at a time': {'block_size': 1, 'class_weights': WEIGHTS},
  'the last block overlaps': {'block_size': 4},
  'all but one class': {'block_size': K - 1, 'transposed': True},
  'one block': {'block_size': K, 'soft_cap': 1.5},
  'more than all': {'block_size': 30, 'transposed': True, 'where': REAL},
  'everything': {
    **{'block_size': 4, 'transposed': True, 'soft_cap': 2.0},
    **{'where': REAL, 'where_classes': EXISTS, 'class_weights': WEIGHTS},
  },
  'masked classes': {'block_size': 4, 'where_classes': EXISTS},
}


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('case', LAYER)
def test_equal_to_the_losses_of_logits(case):
  options = dict(LAYER[case])
  features, kernel, bias, labels, alpha = ALL
  if options.get('transposed'):
    kernel = kernel.T
  if case in ('one block', 'all but one class'):
    bias = None
  if 'where_classes' in options:
    labels = PADDED
  if 'where' in options:
    # Masked rows are not looked at.
    features = np.where(REAL[:, None], features, np.nan)
    labels = np.where(REAL, labels, -1)
  if case == 'everything':
    options['names'] = PAIRS
  compare((features, kernel, bias, labels, alpha), **options)


@pytest.mark.slow
@pytest.mark.usefixtures('x64')
@hypothesis.given(
  sizes=st.tuples(*[st.integers(1, n) for n in (5, 4, 9, 10)]),
  flags=st.tuples(*[st.booleans()] * 5),
  seed=st.integers(0, 99),
)
@hypothesis.settings(
  max_examples=25,
  deadline=None,
  derandomize=True,
  # Every example compiles.
  phases=[hypothesis.Phase.generate],
)
def test_equal_at_any_size(sizes, flags, seed):
  n, d, k, size = sizes
  rng = np.random.default_rng(seed)
  features, kernel = rng.integers(-1, 2, (n, d)), rng.integers(-1, 2, (d, k))
  options = {'block_size': size, 'transposed': flags[0]}
  bias = rng.normal(size=k) if flags[1] else None
  labels = rng.integers(0, k, n)
  if flags[2]:
    options['where'] = rng.random(n) < 0.5
  if flags[3]:
    exists = rng.random(k) < 0.5
    exists[labels] = True
    options['where_classes'] = exists
  if flags[4]:
    options['soft_cap'] = 2.0
  kernel = kernel.T if flags[0] else kernel
  arguments = np.float64(features), np.float64(kernel), bias, labels
  cotangents = rng.normal(size=n)
  compare((*arguments, rng.random(n)), cotangents=cotangents, **options)


@pytest.mark.usefixtures('x64')
def test_unknown_labels_are_nan_and_other_rows_stay():
  labels = np.array([3, -1, K, 7, 9, 2])
  exists = np.arange(K) != 9  # And a masked class.
  arguments = FEATURES, KERNEL, BIAS, labels, ALPHA
  compare(arguments, block_size=4, where_classes=exists)
  statistics = jax.jit(losses.linear_statistics)
  found = statistics(*ALL[:2], labels, where_classes=exists)
  unknown = np.isin(labels, (-1, K, 9))
  np.testing.assert_array_equal(np.isnan(found.label_logit), unknown)
  assert not found.correct[unknown].any()


@pytest.mark.slow
@pytest.mark.usefixtures('x64')
def test_pytorch_and_optax_agree():
  torch = pytest.importorskip('torch')
  if not hasattr(torch.nn.functional, 'linear_cross_entropy'):
    pytest.skip('PyTorch is older than 2.13')
  arguments = RNG.normal(size=(N, D)), RNG.normal(size=(D, K)), BIAS
  features, kernel, bias = (
    torch.tensor(x, requires_grad=True) for x in arguments
  )
  for alpha, weights in ((0.0, None), (0.3, None), (0.3, WEIGHTS)):
    expected = torch.nn.functional.linear_cross_entropy(
      features,
      kernel.T,
      torch.tensor(LABELS),
      linear_bias=bias,
      weight=None if weights is None else torch.tensor(weights),
      label_smoothing=alpha,
      reduction='none',
    )
    gradients = torch.autograd.grad(
      expected, (features, kernel, bias), torch.tensor(COTANGENTS)
    )
    program = with_gradients(
      fused, names=['ls'], block_size=4, class_weights=weights
    )
    found = program(*arguments, LABELS, alpha)['ls'][:4]
    for a, b in zip(found, (expected.detach(), *gradients), strict=True):
      np.testing.assert_allclose(a, b, 1e-12, 1e-13)
  logits = arguments[0] @ arguments[1] + BIAS
  np.testing.assert_allclose(
    losses.linear_cross_entropy(*arguments[:2], LABELS, bias=BIAS),
    optax.softmax_cross_entropy_with_integer_labels(logits, LABELS),
    1e-12,
  )


def test_sums_as_one_reduction():
  """Of other platforms than CPUs, where the tests run."""
  terms = [jnp.asarray(RNG.normal(size=(4, 5))) for _ in range(3)]
  found = _linear_blocks._one_reduction(*terms)
  for actual, term in zip(found, terms, strict=True):
    np.testing.assert_allclose(actual, term.sum(1), 1e-6)


@pytest.mark.usefixtures('x64')
def test_statistics_and_losses_made_of_them():
  """Twice differentiable, also where they are not linear."""
  features = RNG.normal(size=(2, 3, D))
  labels, kernel = LABELS.reshape(2, 3), RNG.normal(size=(D, K))
  logits = features @ kernel
  statistics = functools.partial(losses.linear_statistics, block_size=4)
  found = jax.jit(statistics)(features, kernel, labels)
  own = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
  for actual, expected in zip(
    found,
    (
      np.log(np.exp(logits).sum(-1)),
      *(logits.max(-1), logits.mean(-1), own, own == logits.max(-1)),
    ),
    strict=True,
  ):
    np.testing.assert_allclose(actual, expected, 1e-13)
  assert jax.eval_shape(statistics, features, kernel).label_logit is None

  def of_statistics(kernel, implementation=None):
    s = losses.linear_statistics(
      features, kernel, labels, block_size=4, implementation=implementation
    )
    square = s.log_normalizer**2 + s.max_logit**3 + s.mean_logit**2
    return jnp.sum(square - s.label_logit)

  def of_logits(kernel):
    z = features @ kernel
    label = jnp.take_along_axis(z, labels[..., None], -1)
    square = jax.nn.logsumexp(z, -1) ** 2 + z.max(-1) ** 3 + z.mean(-1) ** 2
    return jnp.sum(square) - jnp.sum(label)

  def derivatives(function, kernel):
    gradient = jax.grad(function)
    return jax.jvp(gradient, (kernel,), (jnp.cos(kernel),))

  expected = jax.jit(functools.partial(derivatives, of_logits))(kernel)
  for implementation in (None, 'autodiff'):
    function = functools.partial(of_statistics, implementation=implementation)
    actual = jax.jit(functools.partial(derivatives, function))(kernel)
    for a, b in zip(actual, expected, strict=True):
      np.testing.assert_allclose(a, b, 1e-12, 1e-12)


@pytest.mark.usefixtures('x64')
def test_forward_mode_needs_autodiff():
  kernel, slope = RNG.normal(size=(2, D, K))

  def loss(kernel, implementation=None, function=fused):
    return function(
      'maxsup',
      *(FEATURES[:-1], kernel, BIAS, LABELS[:-1], ALPHA[:-1]),
      implementation=implementation,
      block_size=4,
    )

  expected = jax.jvp(
    functools.partial(loss, function=dense), (kernel,), (slope,)
  )
  forward = functools.partial(loss, implementation='autodiff')
  actual = jax.jit(lambda: jax.jvp(forward, (kernel,), (slope,)))()
  for a, b in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, b, 1e-12)
  for refused in (
    lambda: jax.jvp(loss, (kernel,), (slope,)),
    jax.jit(lambda: jax.jvp(loss, (kernel,), (slope,))),
    lambda: jax.jacfwd(loss)(kernel),
  ):
    with pytest.raises(TypeError, match="expected implementation='autodiff'"):
      refused()


# Precision


def test_half_precision():
  """Sums in float32; gradients no further off than those of Flax's logits."""
  n, d, k = 64, 32, 300
  features = jnp.asarray(RNG.normal(size=(n, d)), jnp.bfloat16)
  kernel = jnp.asarray(RNG.normal(size=(d, k)), jnp.bfloat16)
  labels = RNG.integers(0, k, n)

  def of_logits(name, features, kernel, bias, labels, alpha, **_):
    return PAIRS[name][1](features @ kernel, labels, alpha)

  options = {'names': ['maxsup'], 'cotangents': np.ones(n)}
  arguments = None, labels, np.float32(0.3)
  program = jax.jit(with_gradients(fused, **options, block_size=128))
  found = program(features, kernel, *arguments)['maxsup']
  program = jax.jit(with_gradients(of_logits, **options))
  rounded = program(features, kernel, *arguments)
  exact = program(
    *(np.asarray(x, np.float32) for x in (features, kernel)), *arguments
  )['maxsup']
  assert found[0].dtype == np.float32
  assert found[1].dtype == found[2].dtype == jnp.bfloat16
  np.testing.assert_allclose(found[0], exact[0], 1e-5)

  def distance(of, i):
    return np.linalg.norm(np.float32(of[i]) - np.float32(exact[i]))

  for i in (1, 2):
    assert distance(found, i) <= 1.05 * distance(rounded['maxsup'], i)
    assert distance(found, i) <= 2**-8 * np.linalg.norm(exact[i])


def test_a_confident_row_has_no_negative_loss():
  """A large common offset costs no digits, and the label is never above."""
  features = jnp.asarray(RNG.normal(size=(256, 16)), jnp.bfloat16)
  kernel = jnp.asarray(3 * RNG.normal(size=(16, 40)), jnp.bfloat16)
  top = jax.jit(losses.linear_statistics)(features, kernel).max_logit
  logits = np.float64(features) @ np.float64(kernel)
  labels = logits.argmax(-1)
  loss = functools.partial(losses.linear_cross_entropy, block_size=16)
  program = jax.jit(lambda bias: loss(features, kernel, labels, bias=bias))
  values = program(np.zeros(40, np.float32))
  assert (np.asarray(values) >= 0).all()
  assert np.float32(top).max() > 25
  shifted = program(np.full(40, 8192, np.float32))
  np.testing.assert_allclose(shifted, values, atol=2e-3)


# Memory and compilations


def sizes_in(jaxpr):
  """The sizes of all arrays of a program, inner programs included."""
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      yield getattr(variable.aval, 'shape', ())
    for leaf in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
    ):
      inner = getattr(leaf, 'jaxpr', leaf)
      if hasattr(inner, 'eqns'):
        yield from sizes_in(inner)


@pytest.mark.parametrize('implementation', [None, 'autodiff'])
def test_no_array_of_all_examples_and_classes(implementation):
  n, d, k, size = 256, 8, 1009, 32

  def step(features, kernel, labels, alpha):
    loss = losses.linear_maxsup_cross_entropy(
      *(features, kernel, labels, alpha),
      block_size=size,
      implementation=implementation,
    )
    return jnp.mean(loss)

  step = jax.value_and_grad(step, (0, 1))
  shapes = [
    jax.ShapeDtypeStruct(s, t)
    for s, t in (((n, d), 'f4'), ((d, k), 'f4'), ((n,), 'i4'), ((), 'f4'))
  ]
  written = max(
    math.prod(s) for s in sizes_in(jax.make_jaxpr(step)(*shapes).jaxpr)
  )
  # Of a block of logits, of the kernel, or of all rows' features.
  assert written <= max(n * size, d * k, n * d)
  program = jax.jit(step).lower(*shapes).compile()
  found = re.findall(r'\w\d+\[([\d,]+)\]', program.as_text())
  assert max(math.prod(map(int, x.split(','))) for x in found) < n * k / 4
  assert program.memory_analysis().temp_size_in_bytes < 4 * n * k / 2


def test_no_strength_compiles_again():
  program = jax.jit(with_gradients(fused, names=['maxsup'], block_size=4))
  arguments = [np.float32(x) for x in ALL]
  arguments[3] = LABELS
  low = program(*arguments[:4], 0.1)['maxsup'][0]
  high = program(*arguments[:4], 0.9)['maxsup'][0]
  assert program._cache_size() == 1
  assert (low != high).any()


# Transformations and devices


def step(features, kernel, bias, labels, *, axes=(), **options):
  """Losses and gradients of their sum over the examples of all devices."""

  def loss(*layer):
    values = fused('maxsup', *layer, labels, 0.3, block_size=2, **options)
    return jnp.sum(jnp.cos(labels) * values), values

  gradients, values = jax.grad(loss, (0, 1, 2), has_aux=True)(
    features, kernel, bias
  )
  for axis in axes:
    gradients = gradients[0], *jax.lax.psum(gradients[1:], axis)
  return values, *gradients


BATCH = (
  RNG.normal(size=(8, D)).astype(np.float32),
  RNG.normal(size=(D, 12)).astype(np.float32),
  RNG.normal(size=12).astype(np.float32),
  np.arange(8) % 12,
)


@pytest.fixture(scope='module')
def expected():
  def loss(*layer):
    values = dense('maxsup', *layer, BATCH[3], 0.3)
    return jnp.sum(jnp.cos(BATCH[3]) * values), values

  gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
  gradients, values = gradient(*BATCH[:3])
  return values, *gradients


def close(actual, expected):
  for a, b in zip(actual, expected, strict=True):
    np.testing.assert_allclose(a, b, 1e-5, 2e-6)


def test_vmap_pmap_and_checkpoint(expected):
  features, kernel, bias, labels = BATCH
  ensemble = jax.jit(jax.vmap(step, (None, 0, 0, None)))(
    features, np.stack([kernel, -kernel]), np.stack([bias, -bias]), labels
  )
  close([x[0] for x in ensemble], expected)
  spread = jax.pmap(
    functools.partial(step, axes=['devices']),
    axis_name='devices',
    in_axes=(0, None, None, 0),
  )(features.reshape(4, 2, D), kernel, bias, labels.reshape(4, 2))
  close([x.reshape(8, *x.shape[2:]) for x in spread[:2]], expected[:2])
  close([x[0] for x in spread[2:]], expected[2:])
  by_class = jax.vmap(
    functools.partial(step, axis_name='k'),
    in_axes=(None, 1, 0, None),
    out_axes=(0, 0, 1, 0),
    axis_name='k',
  )
  values, of_features, of_kernel, of_bias = jax.jit(by_class)(
    features, kernel.reshape(D, 4, 3), bias.reshape(4, 3), labels
  )
  of_layer = of_kernel.reshape(D, 12), of_bias.reshape(12)
  close((values[3], of_features[3], *of_layer), expected)
  again = jax.checkpoint(
    lambda w: jnp.cos(labels) @ fused('maxsup', features, w, bias, labels, 0.3)
  )
  close([jax.jit(jax.grad(again))(kernel)], [expected[2]])


P = jax.sharding.PartitionSpec


def mesh():
  devices = np.array(jax.devices()[:4]).reshape(2, 2)
  return jax.sharding.Mesh(devices, ('n', 'k'))


def collectives(program):
  return re.findall(
    r' = .* (all-reduce|all-gather|all-to-all|collective-permute)(?:-start)?\(',
    program.as_text(),
  )


def test_examples_over_devices_under_jit(expected):
  rows, everywhere = (
    jax.sharding.NamedSharding(mesh(), spec) for spec in (P('n'), P())
  )
  program = (
    jax.jit(
      step,
      in_shardings=(rows, everywhere, everywhere, rows),
      out_shardings=(rows, rows, everywhere, everywhere),
    )
    .lower(*BATCH)
    .compile()
  )
  assert 'all-gather' not in collectives(program)
  close(program(*BATCH), expected)


@pytest.mark.parametrize('check_vma', [True, False])
def test_examples_and_classes_over_devices(expected, check_vma):
  """Four exchanges over the axis of the classes, and nothing is gathered."""
  classes = P(None, 'k'), P('k')
  # JAX sums what varies over fewer axes than it keeps track of by itself.
  axes = () if check_vma else ('n',)
  mapped = jax.shard_map(
    functools.partial(step, axis_name='k', axes=axes),
    mesh=mesh(),
    in_specs=(P('n'), *classes, P('n')),
    out_specs=(P('n'), P('n'), *classes),
    check_vma=check_vma,
  )
  program = jax.jit(mapped).lower(*BATCH).compile()
  assert set(collectives(program)) == {'all-reduce'}
  assert len(collectives(program)) <= 4 + 2
  close(program(*BATCH), expected)


def test_weights_and_masks_of_classes_over_devices():
  labels = BATCH[3] % 10
  options = {
    'class_weights': np.linspace(0.5, 2, 12).astype(np.float32),
    'where_classes': np.arange(12) < 10,
  }
  names = 'ls', 'maxsup'
  expected = [dense(name, *BATCH[:3], labels, 0.3, **options) for name in names]

  def losses_of(kernel, bias, weights, exists):
    options = {'class_weights': weights, 'where_classes': exists}
    return [
      fused(name, BATCH[0], kernel, bias, labels, 0.3, axis_name='k', **options)
      for name in names
    ]

  one = P('k')
  mapped = jax.shard_map(
    losses_of,
    mesh=jax.sharding.Mesh(jax.devices()[:4], 'k'),
    in_specs=(P(None, 'k'), one, one, one),
    out_specs=P(),
  )
  close(jax.jit(mapped)(*BATCH[1:3], *options.values()), expected)


# What is refused


def test_what_is_refused():
  h, w, y = (np.float32(x) for x in (FEATURES, KERNEL, LABELS))
  y = y.astype(int)
  of = losses.linear_maxsup_cross_entropy
  for arguments, error, message in (
    ((h.astype(int), w, y), TypeError, 'features is int'),
    ((h, w > 0, y), TypeError, 'kernel is bool'),
    ((h, w.T, y), ValueError, r'\[D, K\]; is transposed=True meant\?'),
    ((h, w[0], y), ValueError, r'\(6, 3\) and \(11,\); expected \[..., D\]'),
    ((h[0, 0], w, y), ValueError, r'shapes \(\) and'),
    ((h, w[:, :0], y), ValueError, 'at least one feature and one class'),
    ((h, w, y[1:]), ValueError, r'labels has shape \(5,\); expected \(6,\)'),
    ((h, w, h @ w), ValueError, 'expected integer class ids: the losses'),
    ((h, w, y, -1), ValueError, 'alpha is -1.0; expected at least 0'),
    ((h, w, y, np.ones(5)), ValueError, r'alpha has shape \(5,\)'),
  ):
    with pytest.raises(error, match=message):
      jax.eval_shape(lambda arguments=arguments: of(*arguments))
  mask = np.ones((N, K), bool)
  for options, error, message in (
    ({'bias': BIAS[1:]}, ValueError, r'bias has shape \(10,\); expected \(11,'),
    ({'where': mask}, ValueError, 'where_classes masks classes for all'),
    ({'where': np.ones(N)}, TypeError, 'where is float'),
    ({'where_classes': mask}, ValueError, 'one for each class of the kernel'),
    ({'class_weights': -WEIGHTS}, ValueError, 'class_weights is -2'),
    ({'block_size': 0}, ValueError, 'block_size is 0; expected'),
    ({'soft_cap': 0.0}, ValueError, 'soft_cap is 0.0; expected above 0'),
    ({'transposed': 1}, ValueError, 'transposed is 1; expected True or False'),
    ({'implementation': 'autodif'}, ValueError, "did you mean 'autodiff'"),
    ({'axis': -1}, TypeError, "^unexpected argument 'axis'; linear_stat"),
  ):
    with pytest.raises(error, match=message):
      jax.eval_shape(lambda options=options: of(h, w, y, **options))
  with pytest.raises(ValueError, match='expected one of uniform, others'):
    linear_smooth(h, w, y, convention='kl')
  empty = jax.eval_shape(losses.linear_cross_entropy, h[:0], w, y[:0])
  assert empty.shape == (0,)
