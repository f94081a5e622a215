"""The timer, the table, the counts, the flags, and each suite end to end."""

import itertools
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.benchmark import (
  costs,
  decoding,
  diagnostics,
  fused,
  losses,
  report,
  start,
  step,
  tables,
  timing,
)
from experiments.benchmark.loss_entries import LOSSES
from maxsup_jax.errors import UsageError
from maxsup_jax.models.search import Hypotheses
from maxsup_jax.training.parallel import Devices
from tests.experiments.quickly import compiled_quickly

ROOT = Path(__file__).parents[2]
B, K = 8, 16


def run(*arguments, program=('-m', 'experiments.benchmark'), **environment):
  """Starts the program as a user would, on one CPU device."""
  # What is compiled fast runs slowly, which does not matter here.
  fast = {
    'XLA_FLAGS': '--xla_force_host_platform_device_count=1',
    'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  }
  process = subprocess.run(
    [sys.executable, *program, *arguments],
    cwd=ROOT,
    env=os.environ | fast | environment,
    capture_output=True,
    text=True,
  )
  return process.returncode, process.stdout, process.stderr


def of_machine(measured):
  """A record of what a suite measured, as JSON gives it back."""
  return json.loads(json.dumps({'hardware': costs.hardware(), **measured}))


def told(record, suite):
  """What is printed, as one line."""
  lines = [': '.join(row) for row in report.rows({**record, 'suite': suite})]
  return ' '.join(lines)


def over(a, b):
  """The ratios of two summaries, round by round."""
  return [x / y for x, y in zip(a['per_round'], b['per_round'])]


REFUSED = [
  ({'suite': 'speed'}, "--suite is 'speed'; .*xpected one of step, train"),
  ({'losses': 'ls'}, '--losses belongs to --suite=losses'),
  ({'suite': 'losses', 'model': 'x'}, '--model belongs to --suite=step'),
  ({'out': '/dev/null/out.json'}, '/dev/null/out.json cannot be written'),
  ({'batch_size': '6'}, 'batch_size is 6; .* multiple of the 4 devices'),
  ({'model': 'resnet51'}, 'resnet50'),
  ({'suite': 'decoding', 'model': 'transformer'}, "did you mean 'transformer"),
  ({'suite': 'train', 'model': 'resnet8'}, "--model is 'resnet8'"),
  ({'suite': 'losses', 'losses': 'ls,mixup'}, "--losses is 'mixup'"),
  ({'suite': 'losses', 'shapes': '0x16'}, "--shapes is '0x16'; expected"),
  ({'suite': 'losses', 'target': 'gpu'}, "--target is 'gpu'"),
  ({'suite': 'fused', 'shapes': '8x8'}, 'expected EXAMPLESxFEATURESxCLASSES'),
  ({'suite': 'losses', 'target': 'tpu'}, 'pip install libtpu'),
  ({'suite': 'losses', 'shapes': '7x7'}, 'enough memory; try smaller --shapes'),
]


def test_what_cannot_be_measured_is_refused():
  """In one process: its flags are global."""
  code = f"""if True:
    import importlib.util
    import jax
    from absl import flags
    from absl.testing import flagsaver
    from experiments.benchmark import __main__, losses
    from maxsup_jax.errors import UsageError
    jax.config.update('jax_num_cpu_devices', 4)
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: (
      None if name == 'libtpu' else find(name, *rest)
    )
    def too_large(*_):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    losses._measure_shape = too_large
    flags.FLAGS.mark_as_parsed()
    for given, _ in {REFUSED}:
      with flagsaver.as_parsed(**{{'out': '', **given}}):
        try:
          __main__.main()
        except UsageError as e:
          print(str(e))
  """
  code, out, err = run(program=('-c', code), XLA_FLAGS='')
  assert code == 0, err
  refusals = out.splitlines()
  assert len(refusals) == len(REFUSED)
  for refusal, (_, message) in zip(refusals, REFUSED):
    assert re.search(message, refusal), (refusal, message)


# The timer


def orders_of(names, rounds):
  """The orders of the rounds, without the one that does not count."""
  log = []

  def timer(name):
    return lambda count: float(log.append(name) or len(log))

  seconds = timing.time_in_turn({n: timer(n) for n in names}, rounds, 5)
  # What was timed is what is told.
  places = range(len(names) + 1, len(log) + 1)
  assert sorted(x for each in seconds.values() for x in each) == list(places)
  size = len(names)
  return [tuple(log[i : i + size]) for i in range(size, len(log), size)]


def test_all_take_turns_in_every_order():
  assert sorted(orders_of('abc', 6)) == list(itertools.permutations('abc'))
  # Of many, neither the first nor who follows whom stays the same.
  names = [str(i) for i in range(25)]
  orders = orders_of(names, 12)
  assert all(sorted(order) == sorted(names) for order in orders)
  assert len({order[0] for order in orders}) > 5
  assert not set.intersection(*(set(itertools.pairwise(o)) for o in orders))


def test_a_timer_waits_for_what_it_started():
  log = []
  clock = iter([1.0, 7.0])
  seconds = timing.timer(
    lambda: log.append('step'), lambda: log.append('wait'), lambda: next(clock)
  )(3)
  assert seconds == 2
  assert log == ['wait', 'step', 'step', 'step', 'wait']


def test_statistics_are_those_of_numpy():
  values = np.random.default_rng(0).random(11)
  summary = timing.summary(values)
  names = ('min', 'quartile_1', 'median', 'quartile_3', 'max')
  np.testing.assert_allclose(
    [summary[name] for name in names], np.percentile(values, range(0, 101, 25))
  )
  # Round 2 was slow for both, and cancels out.
  assert report.spread(timing.summary([1, 2, 3]), '.1f') == '2.0 (1.5–2.5)'
  ratio = timing.ratios([1.5, 12.0, 1.0], [1.0, 10.0, 1.0])
  assert (ratio['per_round'], ratio['median']) == ([1.5, 1.2, 1.0], 1.2)
  with pytest.raises(ValueError, match='zip'):
    timing.ratios([1.0], [1.0, 2.0])


# The counts


def test_flops_are_those_of_one_device():
  def product(w, x):
    return w, x @ w

  for devices in (Devices(), Devices(jax.devices()[:1])):
    w = devices.replicate(np.ones((16, 4), np.float32))
    x = devices.shard(np.ones((8 * devices.count, 16), np.float32))
    expected = 2 * 8 * 16 * 4
    assert costs.flops_as_written(product, w, x) == expected
    compiled = devices.map(product).lower(w, x).compile()
    assert costs.counted(compiled, 'flops') == expected


def test_costs_that_the_platform_does_not_tell(monkeypatch):
  for cost in (None, {}, {'flops': -1.0}):
    program = types.SimpleNamespace(cost_analysis=lambda cost=cost: cost)
    assert costs.counted(program, 'flops') is None
  program = types.SimpleNamespace(memory_analysis=lambda: None)
  assert costs.memory(program) is None


def test_what_devices_can_do():
  peak = costs.peak_flops
  assert peak('NVIDIA A100-SXM4-80GB', 'float32') == 156e12
  assert peak('TPU v5 lite', 'bfloat16') == 197e12
  assert peak('cpu', 'float32') is None
  with jax.default_matmul_precision('highest'):
    assert peak('NVIDIA A100-SXM4-80GB', 'float32') is None
    assert peak('NVIDIA A100-SXM4-80GB', 'bfloat16') == 312e12
  assert costs.memory_capacity('TPU v5 lite') == 16 * 2**30
  assert costs.memory_capacity('NVIDIA H200') is None
  assert costs.memory_capacity('cpu') is None
  bound = costs.bound(
    1.97e14, 8.19e10, device_kind='TPU v5e', dtype='bfloat16', batch_size=8
  )
  assert bound['compute_seconds'] == pytest.approx(1)
  assert bound['memory_seconds'] == pytest.approx(0.1)
  assert bound['limit'] == 'compute'
  assert bound['images_per_second'] == pytest.approx(8)


# The suites, each once on something small


@pytest.mark.slow
def test_step(monkeypatch, cached_compilations):
  monkeypatch.delitem(step.OBJECTIVES, 'ls')
  size = {'model_options': {'width': 4}, 'image_size': 8, 'batch_size': 16}
  with compiled_quickly():
    record = of_machine(step.measure(model='resnet8', rounds=2, **size))
  objectives = record['results']['objectives']
  assert list(objectives) == ['ce', 'maxsup']
  for row in objectives.values():
    seconds, median = row['step_seconds'], row['step_seconds']['median']
    assert median == pytest.approx(np.median(seconds['per_round']))
    assert row['ratio_to_ce']['per_round'] == over(
      seconds, objectives['ce']['step_seconds']
    )
    assert row['images_per_second'] == pytest.approx(16 / median)
    memory = row['memory_bytes_per_device']
    # The state is donated: the new one takes its place.
    assert memory['aliased'] > 0.9 * memory['outputs']
  # The same weights and images, but each minimised its own.
  first = [x['first_step'] for x in objectives.values()]
  assert first[1]['nll'] == pytest.approx(first[0]['nll'])
  assert first[0]['objective'] == pytest.approx(first[0]['nll'])
  assert first[1]['objective'] > 1.001 * first[0]['objective']
  assert 'resnet8 (stem cifar), 16 images of 8x8' in told(record, 'step')


@pytest.mark.slow
def test_losses(monkeypatch, cached_compilations):
  """Competitors must compute the same, and more exactly than demanded."""
  monkeypatch.setattr(losses, '_TOLERANCE', 1e-5)
  with compiled_quickly():
    measured = losses.measure(shapes=[f'{B}x{K}'], rounds=2)
  record = of_machine(measured)
  (shape,) = record['results']['shapes']
  base = shape['baseline']
  assert base['ratio_to_baseline']['per_round'] == [1, 1]
  assert list(shape['losses']) == list(LOSSES)
  for name, loss in shape['losses'].items():
    ours = loss['ours']
    assert ours['passes'] == ours['bytes_accessed'] / (4 * B * K)
    ratio = over(ours['seconds'], base['seconds'])
    assert ours['ratio_to_baseline']['per_round'] == ratio
    if torch := loss['torch']:
      assert torch['value'] == pytest.approx(ours['value'], rel=1e-5), name
      ratio = over(ours['seconds'], torch['seconds'])
      assert loss['ratio_to_torch']['per_round'] == ratio
  assert len({x['ours']['value'] for x in shape['losses'].values()}) > 12
  assert 'a loss, logits [8, 16]: over optax CE: LS ' in told(record, 'losses')
  *_, last = report.every_loss(record['results'])
  assert last.startswith('logit matching, [8, 16]: time over optax CE ')


@pytest.mark.slow
def test_fused(monkeypatch):
  monkeypatch.setitem(fused._TOLERANCE, 'float32', 1e-5)
  monkeypatch.setattr(costs, 'find_torch', lambda device: (None, 'left out'))
  with compiled_quickly():
    measured = fused.measure(shapes=['8x4x16'], rounds=2)
    with monkeypatch.context() as patch:
      patch.setitem(fused._TOLERANCE, 'float32', -1)
      with pytest.raises(UsageError, match='apart in value'):
        fused.measure(shapes=['8x4x16'], rounds=2)
  record = of_machine(measured)
  programs = record['results']['shapes'][0]['programs']
  ours, dense = programs['fused maxsup'], programs['dense maxsup']
  ratio = over(ours['seconds'], dense['seconds'])
  assert ours['over_dense']['per_round'] == ratio
  assert '[8, 4, 16], float32: fused MaxSup' in told(record, 'fused')
  table = tables.fused({'x.json': {**record, 'suite': 'fused'}})
  assert '| [8, 4, 16] | fused MaxSup | ' in table


# A line of an instruction is one line; here `~` stands for its break.
COMPILED = """HloModule compiled
%sliced (p0: f32[8,16], p1: s32[]) -> f32[8,4] {
  %p0 = f32[8,16]{1,0} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  ROOT %part = f32[8,4]{1,0} dynamic-slice(%p0, %p1, %p1)
}

%body (arg: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %arg = (s32[]{:T(128)S(6)}, f32[8,16]{1,0}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%arg), index=0
  %whole = f32[8,16]{1,0} get-tuple-element(%arg), index=1
  %near = f32[8,4]{1,0:T(8)S(1)} fusion(%whole, %i), kind=kLoop,~
 calls=%sliced, backend_config={"estimated_cycles":"10"}
  %next = f32[8,16]{1,0} dynamic-update-slice(%whole, %near, %i, %i)
  ROOT %out = (s32[], f32[8,16]{1,0}) tuple(%i, %next)
}

%condition (arg.1: (s32[], f32[8,16])) -> pred[] {
  %arg.1 = (s32[], f32[8,16]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %end = s32[]{:T(128)} constant(5)
  ROOT %less = pred[]{:T(512)S(6)} compare(%i.1, %end), direction=LT
}

ENTRY %main (x: f32[8,16]) -> bf16[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %all = (s32[], f32[8,16]{1,0}) tuple(%x)
  %loop = (s32[], f32[8,16]{1,0}) while(%all),~
 condition=%condition, body=%body
  %got = f32[8,16]{1,0} get-tuple-element(%loop), index=1
  ROOT %end.1 = bf16[8,16]{1,0} convert(%got),~
 backend_config={"estimated_cycles":"7"}
}
""".replace('~\n', '')


def test_a_loop_counts_as_often_as_it_runs():
  """A slice counts as such, and what is on the chip counts nothing."""
  found = fused.walked(COMPILED)
  assert found['cycles'] == 5 * 10 + 7
  slice_, whole = 4 * 8 * 4, 8 * 16
  assert found['hbm_bytes'] == 5 * (slice_ + slice_) + 4 * whole + 2 * whole


@pytest.mark.slow
def test_fused_for_a_tpu(tmp_path):
  """Memory, bytes and the compiler's cycles of a large vocabulary; minutes."""
  pytest.importorskip('libtpu')
  out = tmp_path / 'out.json'
  code, _, err = run(
    *('--suite=fused', '--target=tpu', '--shapes=4096x1024x128256'),
    f'--out={out}',
    JAX_DISABLE_MOST_OPTIMIZATIONS='0',
  )
  assert code == 0, err
  (shape,) = json.loads(out.read_text())['results']['shapes']
  ours, dense, ce = (
    shape['programs'][x] for x in ('fused maxsup', 'dense maxsup', 'fused ce')
  )
  assert ours['temporaries'] < 32e6 < 2e9 < dense['temporaries']
  assert ours['hbm_bytes'] < 0.25 * dense['hbm_bytes']
  assert ours['cycles'] < 1.3 * dense['cycles']
  assert ours['cycles'] < 1.05 * ce['cycles']


def test_a_competitor_that_computes_something_else_is_refused(monkeypatch):
  pytest.importorskip('torch')
  entry = LOSSES['maxsup']

  def value(*inputs):
    return 1.01 * entry.torch(*inputs)

  def gradient(*inputs):
    y = entry.torch(*inputs)
    return 1.01 * y - 0.01 * y.detach()

  for broken in (value, gradient):
    monkeypatch.setitem(LOSSES, 'maxsup', entry._replace(torch=broken))
    with pytest.raises(UsageError, match=r'maxsup: ours and .* apart in'):
      losses.measure(losses=['maxsup'], shapes=[f'{B}x{K}'], rounds=2)


@pytest.mark.parametrize(
  'target', [pytest.param('here', marks=pytest.mark.slow), 'tpu']
)
def test_the_program(tmp_path, target):
  """Its record and what is printed, also compiled for a TPU."""
  if target == 'tpu':
    pytest.importorskip('libtpu')
  out = tmp_path / 'out.json'
  code, printed, err = run(
    *('--suite=losses', f'--target={target}', f'--shapes={B}x128'),
    *('--losses=maxsup,logit_norm', '--rounds=2', f'--out={out}'),
  )
  assert code == 0, err
  record = json.loads(out.read_text())
  assert (record['schema'], record['suite']) == (1, 'losses')
  assert '-m experiments.benchmark --suite=losses' in record['command']
  assert record['versions']['jax'] == jax.__version__
  assert record['hardware']['device_kind'] == 'cpu'
  (shape,) = record['results']['shapes']
  for loss in shape['losses'].values():
    assert loss['ours']['bytes_accessed'] > 2 * shape['logits_bytes']
    assert bool(loss['ours']['seconds']) == (target == 'here')
  assert ('compiled for TPU v5 lite' in printed) == (target == 'tpu')


@pytest.mark.slow
def test_decoding(cached_compilations):
  """All with their ids compared."""
  sizes = {'sentences': 2, 'tokens': 5, 'vocabulary': 20}
  with compiled_quickly():
    measured = decoding.measure(model='transformer_tiny', rounds=2, **sizes)
  record = of_machine(measured)
  programs = record['results']['programs']
  assert programs['beam of 4, uncached']['over_greedy']['per_round'] == over(
    programs['beam of 4, uncached']['seconds'], programs['greedy']['seconds']
  )
  assert '2 sentences of 5 tokens' in told(record, 'decoding')


def test_a_search_that_differs_without_a_cache_is_refused():
  found = Hypotheses(np.array([[[3, 1]]]), np.array([[-1.0]]))
  decoding.check('greedy', found, found)
  for other in (
    found._replace(ids=np.array([[[4, 1]]])),
    found._replace(scores=np.array([[-1.1]])),
  ):
    with pytest.raises(UsageError, match='greedy translates otherwise'):
      decoding.check('greedy', found, other)


def test_diagnostics():
  with compiled_quickly():
    sizes = {'examples': 60, 'classes': 4, 'features': 6, 'batch_size': 8}
    measured = diagnostics.measure(**sizes, resamples=3, rounds=2)
  record = of_machine(measured)
  seconds = record['results']['seconds']
  assert list(seconds) == [
    *('calibration', 'selective', 'bootstrap'),
    *('second pass update', 'second pass products'),
  ]
  assert record['results']['ratios']['second pass update']['per_round'] == over(
    seconds['second pass update'], seconds['second pass products']
  )
  assert 'over its matrix products alone:' in told(record, 'diagnostics')


def test_the_products_are_those_of_the_second_pass():
  """What is timed beside it gives the distances that it sums up."""
  from maxsup_jax.diagnostics import neural_collapse

  features = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
  means = neural_collapse.ClassMeans.init(4, 6)
  between = means.update(features, np.arange(8) % 4).compute()
  centered = features - between.global_mean
  np.testing.assert_allclose(
    diagnostics.collapse_products(centered, between),
    centered @ (between.means - between.global_mean).T,
    atol=1e-5,
  )


def test_start(monkeypatch):
  """What runs would say: the first is a warm-up, the others differ."""
  numbers = iter([90.0, 80.0, 8.0, 2.0, 10.0, 3.0])

  def run(card, *arguments, success):
    assert (card, success) == ('some/card.py', arguments == ('--help',))
    compiled, read = (0, 7) if 'warm' in arguments[0] else (7, 0)
    return arguments != ('--help',) and (
      f'noise\nfirst step after {next(numbers)} s; {compiled} programs '
      f'compiled, {read} read from where they are kept\nmore'
    )

  monkeypatch.setattr(start, '_run', run)
  record = of_machine(start.measure(card='some/card.py', rounds=2))
  cold, warm = record['results']['cold'], record['results']['warm']
  assert cold['first_step_seconds']['per_round'] == [8.0, 10.0]
  assert warm['first_step_seconds']['per_round'] == [2.0, 3.0]
  assert warm['programs_read'] == [7, 7]
  assert 'second start: 2.5 (2.2–2.8) s; 0 programs' in told(record, 'start')
