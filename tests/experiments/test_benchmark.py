"""The timer, the table, the counts, the flags, and the suites without peers."""

import itertools
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import (
  costs,
  diagnostics,
  report,
  start,
  step,
  timing,
)
from maxsup_jax.training.parallel import Devices
from tests.experiments.quickly import compiled_quickly

ROOT = Path(__file__).parents[2]

TINY = {'image_size': 8, 'batch_size': 16, 'rounds': 2, 'steps_per_round': 1}

# What the suite `step` must not need.
ABSENT = ('matplotlib', 'sklearn', 'torch', 'maxsup_jax.training.loop')


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


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The output and the record of one small measurement."""
  path = tmp_path_factory.mktemp('benchmark')
  # Python runs it before anything else.
  (path / 'sitecustomize.py').write_text(
    f'import sys\nfor name in {ABSENT}:\n  sys.modules[name] = None\n'
  )
  out = path / 'out.json'
  given = [f'--{name}={value}' for name, value in TINY.items()]
  code, stdout, stderr = run(
    '--model=resnet8', *given, f'--out={out}', PYTHONPATH=str(path)
  )
  assert code == 0, stderr
  return stdout, json.loads(out.read_text())


def test_the_record_says_what_ran_and_on_what(finished):
  printed, record = finished
  assert (record['schema'], record['suite']) == (1, 'step')
  assert '-m experiments.benchmark --model=resnet8' in record['command']
  assert record.keys() >= {'time', 'git_commit'}
  assert record['versions']['jax'] == jax.__version__
  hardware = record['hardware']
  assert hardware['platform'] == hardware['device_kind'] == 'cpu'
  assert hardware['device_count'] == hardware['process_count'] == 1
  settings = record['settings']
  assert settings['model_options'] == {
    'stem': 'cifar',
    'batch_norm_axis': 'devices',
  }
  assert settings.items() >= TINY.items()
  assert 'MaxSup within 1% of CE' in printed


def test_the_numbers_of_the_steps_follow_from_the_rounds(finished):
  objectives = finished[1]['results']['objectives']
  assert list(objectives) == ['ce', 'ls', 'maxsup']
  ce = objectives['ce']
  for row in objectives.values():
    seconds, median = row['step_seconds'], row['step_seconds']['median']
    assert median == pytest.approx(np.median(seconds['per_round']))
    assert row['ratio_to_ce']['per_round'] == [
      a / b
      for a, b in zip(seconds['per_round'], ce['step_seconds']['per_round'])
    ]
    assert row['images_per_second'] == pytest.approx(16 / median)
    flops, memory = row['flops_per_device'], row['memory_bytes_per_device']
    assert row['flops_per_second_per_device'] == pytest.approx(
      flops['as_written'] / median
    )
    # The state is donated: the new one takes its place.
    assert 0 < memory['aliased'] <= memory['outputs'] <= memory['arguments']
    assert memory['total'] == (
      memory['arguments']
      + memory['temporaries']
      + memory['outputs']
      - memory['aliased']
    )
  # The same weights and images, but each minimised its own.
  first = [x['first_step'] for x in objectives.values()]
  assert [x['nll'] for x in first] == pytest.approx([first[0]['nll']] * 3)
  assert first[0]['objective'] == pytest.approx(first[0]['nll'])
  assert len({round(x['objective'], 3) for x in first}) == 3


REFUSED = [
  ({'suite': 'speed'}, "--suite is 'speed'; expected one of step, train"),
  ({'losses': 'ls'}, '--losses belongs to --suite=losses'),
  ({'suite': 'losses', 'model': 'x'}, 'belongs to --suite=step or train'),
  ({'out': '/dev/null/out.json'}, '/dev/null/out.json cannot be written'),
  ({'batch_size': '6'}, '--batch_size is 6; .* multiple of the 4 devices'),
  ({'model': 'resnet51'}, 'resnet50'),
  ({'dtype': 'float16'}, 'bfloat16'),
  ({'model': 'resnet18', 'image_size': '4'}, '8x8'),
  ({'suite': 'losses', 'losses': 'ls,mixup'}, "--losses is 'mixup'"),
  ({'suite': 'losses', 'shapes': '8by16'}, "--shapes is '8by16'; expected"),
  ({'suite': 'losses', 'shapes': '0x16'}, "--shapes is '0x16'; expected"),
  ({'suite': 'losses', 'target': 'gpu'}, "--target is 'gpu'"),
  ({'suite': 'losses', 'dtype': 'float16'}, "--dtype is 'float16'"),
  ({'suite': 'diagnostics', 'shapes': '9x9,9x9'}, 'expected only one'),
  ({'suite': 'diagnostics', 'shapes': '100x2'}, 'at least 10x3'),
  (
    {'suite': 'diagnostics', 'shapes': '20x16', 'batch_size': '8'},
    '--batch_size is 8; expected at least 16',
  ),
  ({'suite': 'pipeline', 'image_size': '9999'}, 'from 1 to 1024'),
  ({'suite': 'pipeline', 'batch_size': '385'}, 'from 1 to 384'),
  ({'suite': 'start', 'card': 'no.py'}, "which fails: .*no run card 'no"),
  ({'suite': 'losses', 'shapes': '7x7'}, 'enough memory; try smaller --shapes'),
]


@pytest.fixture(scope='module')
def refusals():
  """What the program says to each, in one process: its flags are global."""
  code = f"""if True:
    import jax
    from absl import flags
    from absl.testing import flagsaver
    from experiments.benchmark import __main__, losses
    from maxsup_jax.errors import UsageError
    jax.config.update('jax_num_cpu_devices', 4)
    def too_large(*_):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    losses._Shape = too_large
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
  return out.splitlines()


def test_what_cannot_be_measured_is_refused(refusals):
  assert len(refusals) == len(REFUSED)
  for told, (_, message) in zip(refusals, REFUSED):
    assert re.search(message, told), (told, message)


def test_a_wrong_flag_is_one_line():
  code, out, err = run('--rounds=1')
  assert (code, out) == (2, '')
  assert err.startswith('error: ')
  assert '--rounds=1' in err
  assert len(err.strip().splitlines()) == 1


def test_help_imports_nothing_heavy():
  code = (
    'import sys, experiments.benchmark.__main__;'
    "print({'jax', 'flax', 'numpy', 'grain'} & sys.modules.keys())"
  )
  assert run(program=('-c', code))[1].strip() == 'set()'


def test_defaults_of_the_platforms(monkeypatch):
  on_cpu = step.settings(rounds=3, model=None)
  assert (on_cpu.model, on_cpu.batch_size, on_cpu.rounds) == ('resnet18', 64, 3)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  on_gpu = step.settings()
  assert (on_gpu.model, on_gpu.dtype) == ('resnet50', 'bfloat16')
  assert on_gpu.batch_size == 4 * 256


# The timer


def test_all_take_turns_in_every_order():
  log = []

  def timer(name):
    def seconds_per_step(count):
      log.append((name, count))
      return len(log)

    return seconds_per_step

  orders, seconds = timing.time_in_turn({n: timer(n) for n in 'abc'}, 6, 5)
  assert sorted(map(tuple, orders)) == list(itertools.permutations('abc'))
  # A round that does not count goes before.
  assert log == [(name, 5) for order in ['abc', *orders] for name in order]
  for name in 'abc':
    assert seconds[name] == [
      4 + 3 * i + order.index(name) for i, order in enumerate(orders)
    ]
  # Of many, neither the first nor who follows whom stays the same.
  names = [str(i) for i in range(25)]
  orders, _ = timing.time_in_turn(dict.fromkeys(names, lambda n: 1.0), 12, 1)
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
  ratio = timing.ratios([1.5, 12.0, 1.0], [1.0, 10.0, 1.0])
  assert (ratio['per_round'], ratio['median']) == ([1.5, 1.2, 1.0], 1.2)
  with pytest.raises(ValueError, match='zip'):
    timing.ratios([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
  ('per_round', 'met'),
  [
    ([1.001, 1.002, 1.003, 1.004, 1.005], True),
    ([0.95] * 5, True),
    ([1.019, 1.02, 1.02, 1.02, 1.021], False),
    ([0.99, 0.99, 1.0, 1.02, 1.02], None),  # Quartiles too far apart.
    ([1.0] * 4, None),  # Too few.
  ],
)
def test_verdict(per_round, met):
  assert timing.verdict(timing.summary(per_round))['met'] is met


def test_a_table_aligns_what_is_known():
  rows = {'a': {'x': {'y': 0.5}, 'z': 2e12}, 'long': {'x': None, 'z': None}}
  columns = (('one', 'x.y', '.1%'), ('two', 'z', 'FLOP'))
  assert report.table(rows, columns, title='t') == [
    't       one         two',
    'a     50.0%  2.00 TFLOP',
    'long      -           -',
  ]
  across = report.table(rows, columns, title='t', across=True)
  assert across[1].split() == ['one', '50.0%', '-']
  assert report.spread('.1f', 10)(timing.summary([1, 2, 3])) == (
    '20.0 (15.0–25.0)'
  )


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
    assert costs.flops(compiled) == expected


def test_costs_that_the_platform_does_not_tell(monkeypatch):
  for cost in (None, {}, {'flops': -1.0}):
    program = types.SimpleNamespace(cost_analysis=lambda cost=cost: cost)
    assert costs.flops(program) is None
  program = types.SimpleNamespace(memory_analysis=lambda: None)
  assert costs.memory(program) is None
  assert set(costs.rate(None, 0.1, 1e12).values()) == {None}

  def no_cpu(backend):
    raise RuntimeError(f'Unknown backend {backend}')

  monkeypatch.setattr(jax, 'local_devices', no_cpu)
  assert costs.flops_as_written(jnp.add, (), ()) is None


def test_what_devices_can_do():
  peak = costs.peak_flops
  assert peak('NVIDIA A100-SXM4-80GB', 'float32') == 156e12
  assert peak('TPU v5 lite', 'bfloat16') == 197e12
  assert peak('cpu', 'float32') is None
  with jax.default_matmul_precision('highest'):
    assert peak('NVIDIA A100-SXM4-80GB', 'float32') is None
    assert peak('NVIDIA A100-SXM4-80GB', 'bfloat16') == 312e12
  assert costs.memory_bandwidth('NVIDIA H200') == 4800e9
  assert costs.memory_capacity('TPU v5 lite') == 16 * 2**30
  assert costs.memory_capacity('NVIDIA H200') is None
  assert costs.memory_bandwidth('cpu') is costs.memory_capacity('cpu') is None
  assert costs.rate(3e12, 0.5, 24e12)['share_of_peak'] == 0.25
  bound = costs.bound(
    1.97e14, 8.19e10, device_kind='TPU v5e', dtype='bfloat16', batch_size=8
  )
  assert bound['compute_seconds'] == pytest.approx(1)
  assert bound['memory_seconds'] == pytest.approx(0.1)
  assert bound['limit'] == 'compute'
  assert bound['images_per_second'] == pytest.approx(8)


def test_peak_memory_is_that_of_the_fullest_device():
  devices = [
    types.SimpleNamespace(memory_stats=lambda x=x: x)
    for x in ({'peak_bytes_in_use': 5}, {'peak_bytes_in_use': 7}, None, {})
  ]
  assert costs.peak_memory(devices) == 7
  assert costs.peak_memory(devices[2:]) is None


# The suites `diagnostics` and `start`


def test_diagnostics():
  with compiled_quickly():
    record = of_machine(
      diagnostics.measure(
        shapes=['60x4'], features=6, batch_size=8, resamples=3, rounds=2
      )
    )
  seconds = record['results']['seconds']
  assert list(seconds) == [
    *('exponentials', 'calibration', 'selective', 'bootstrap'),
    *('first pass update', 'second pass update', 'second pass products'),
  ]
  ratio = record['results']['ratios']['second pass update']['per_round']
  update, products = (
    seconds[f'second pass {x}']['per_round'] for x in ('update', 'products')
  )
  assert ratio == [a / b for a, b in zip(update, products)]
  seconds['calibration']['median'], seconds['selective']['median'] = 1.25, 2.5
  assert 'Both tables: 3.75 s' in ' '.join(diagnostics.describe(record))


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


@pytest.mark.parametrize('kept', [True, False])
def test_start(monkeypatch, kept):
  """What runs would say: the first is a warm-up, the others differ."""
  numbers = iter([90.0, 80.0, 8.0, 2.0, 10.0, 3.0])

  def run(card, *arguments, success):
    assert (card, success) == ('some/card.py', arguments == ('--help',))
    warm = kept and 'warm' in arguments[0]
    compiled, read = (0, 7) if warm else (7, 0)
    return arguments != ('--help',) and (
      f'noise\nfirst step after {next(numbers)} s; {compiled} programs '
      f'compiled, {read} read from where they are kept\nmore'
    )

  monkeypatch.setattr(start, '_run', run)
  record = of_machine(start.measure(card='some/card.py', rounds=2))
  cold, warm = record['results']['cold'], record['results']['warm']
  assert cold['first_step_seconds']['per_round'] == [8.0, 10.0]
  assert warm['first_step_seconds']['per_round'] == [2.0, 3.0]
  assert warm['programs_read'] == [7 * kept] * 2
  told = ' '.join(start.describe(record))
  assert ('where they are kept: met' in told.replace('  ', ' ')) == kept
