import copy
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
  _benchmark_costs,
  _benchmark_pipeline,
  _benchmark_report,
  _benchmark_step,
  _benchmark_timing,
)
from maxsup_jax.errors import UsageError
from maxsup_jax.training.parallel import Devices

ROOT = Path(__file__).parents[2]

TINY = ('--model=resnet8', '--image_size=8', '--batch_size=16')

# What a machine without datasets need not have, and what must not need it.
ABSENT = (
  'tensorflow_datasets',
  'grain',
  'cv2',
  'ml_collections',
  'tqdm',
  'matplotlib',
  'sklearn',
  'maxsup_jax.training.config',
  'maxsup_jax.training.loop',
  'maxsup_jax.training.setup',
)


def run(*arguments, program=('-m', 'experiments.benchmark'), **environment):
  """Starts the program as a user would, on one CPU device."""
  # The speed of the code does not matter here, that of the compiler does.
  xla_flags = (
    '--xla_force_host_platform_device_count=1 '
    '--xla_backend_optimization_level=0 '
    '--xla_llvm_disable_expensive_passes=true'
  )
  process = subprocess.run(
    [sys.executable, *program, *arguments],
    cwd=ROOT,
    env=os.environ | {'XLA_FLAGS': xla_flags} | environment,
    capture_output=True,
    text=True,
  )
  return process.returncode, process.stdout, process.stderr


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The output and the record of one small measurement."""
  path = tmp_path_factory.mktemp('benchmark')
  # Python runs it before anything else.
  (path / 'sitecustomize.py').write_text(
    f'import sys\nfor name in {ABSENT}:\n  sys.modules[name] = None\n'
  )
  out = path / 'out.json'
  code, stdout, stderr = run(
    *TINY,
    '--rounds=2',
    '--steps_per_round=1',
    f'--out={out}',
    PYTHONPATH=str(path),
  )
  assert code == 0, stderr
  return stdout, json.loads(out.read_text())


@pytest.fixture
def record(finished):
  return copy.deepcopy(finished[1])


def test_it_runs_where_neither_datasets_nor_grain_are_installed(finished):
  printed, record = finished
  reason = 'grain is not installed'
  assert record['results']['pipeline'] == {
    'images_per_second': None,
    'reason': reason,
  }
  assert f'not measured, {reason}' in ' '.join(printed.split())


def test_the_record_says_what_ran_and_on_what(record):
  assert (record['schema'], record['suite']) == (1, 'step')
  assert '-m experiments.benchmark --model=resnet8' in record['command']
  assert record.keys() >= {'time', 'git_commit'}
  assert record['versions']['jax'] == jax.__version__
  hardware = record['hardware']
  assert hardware['platform'] == hardware['device_kind'] == 'cpu'
  assert hardware['device_count'] == hardware['process_count'] == 1
  assert hardware['host_cpu_count'] == os.cpu_count()
  settings = record['settings']
  assert settings['model_options'] == {
    'stem': 'cifar',
    'batch_norm_axis': 'devices',
  }
  assert settings['parameters'] > 0
  given = {'model': 'resnet8', 'image_size': 8, 'batch_size': 16, 'rounds': 2}
  assert settings.items() >= given.items()


def test_every_objective_took_part(record):
  objectives = record['results']['objectives']
  assert list(objectives) == ['ce', 'ls', 'maxsup']
  first = [x['first_step'] for x in objectives.values()]
  # The same weights and images, but each minimised its own.
  assert [x['nll'] for x in first] == pytest.approx([first[0]['nll']] * 3)
  assert first[0]['objective'] == pytest.approx(first[0]['nll'])
  assert len({round(x['objective'], 3) for x in first}) == 3


def test_the_numbers_follow_from_the_rounds(record):
  results = record['results']
  orders = results['round_orders']
  assert orders == [['ce', 'ls', 'maxsup'], ['ce', 'maxsup', 'ls']]
  ce = results['objectives']['ce']
  assert ce['ratio_to_ce']['per_round'] == [1, 1]
  for row in results['objectives'].values():
    seconds, median = row['step_seconds'], row['step_seconds']['median']
    assert len(seconds['per_round']) == 2
    assert min(seconds['per_round']) == seconds['min'] > 0
    assert median == pytest.approx(np.mean(seconds['per_round']))
    assert row['ratio_to_ce']['per_round'] == [
      a / b
      for a, b in zip(seconds['per_round'], ce['step_seconds']['per_round'])
    ]
    assert row['images_per_second'] == pytest.approx(16 / median)
    assert row['lower_seconds'] > 0
    assert row['compile_seconds'] > 0
    flops = row['flops_per_device']
    assert flops['as_compiled'] > 0
    assert row['flops_per_second_per_device'] == pytest.approx(
      flops['as_written'] / median
    )
    assert row['share_of_peak'] is None
    memory = row['memory_bytes_per_device']
    # The state is donated: the new one takes its place.
    assert 0 < memory['aliased'] <= memory['outputs'] <= memory['arguments']
    assert memory['total'] == (
      memory['arguments']
      + memory['temporaries']
      + memory['outputs']
      - memory['aliased']
    )
  assert results['peak_memory_bytes_per_device'] is None
  assert (
    results['target']['ratio']
    == (results['objectives']['maxsup']['ratio_to_ce']['median'])
  )
  assert results['target']['met'] is None


def test_what_is_printed(finished):
  printed, record = finished
  lines = printed.splitlines()
  assert max(map(len, lines)) <= 80
  assert next(x.split() for x in lines if 'MaxSup' in x) == [
    'CE',
    'LS',
    'MaxSup',
  ]
  objectives = record['results']['objectives'].values()
  ratios = next(x for x in lines if x.startswith('ratio to CE'))
  assert ratios.split()[3:] == [
    f'{x["ratio_to_ce"]["median"]:.4f}' for x in objectives
  ]
  words = ' '.join(printed.split())
  assert 'MaxSup within 1% of CE on a ResNet' in words
  assert 'fewer than 5 rounds cannot tell' in words


def test_what_is_not_known_is_printed_as_unknown(record):
  for row in record['results']['objectives'].values():
    row['memory_bytes_per_device'] = None
    row['flops_per_device'] = {'as_written': None, 'as_compiled': None}
    row['flops_per_second_per_device'] = None
  record['git_commit'] = record['hardware']['host_cpu'] = None
  text = _benchmark_report.describe(record)
  # Nine rows of the table.
  assert text.count('unknown        unknown        unknown') == 9 + 1
  assert 'commit unknown' in text


def test_what_is_known_of_a_device_is_printed(record):
  results = record['results']
  results['peak_flops_per_second_per_device'] = 989.4e12
  results['peak_memory_bytes_per_device'] = 12_345_678_901
  results['objectives']['maxsup']['share_of_peak'] = 0.3217
  results['pipeline'] = {
    'images_per_second': {
      'median': 1234.4,
      'quartile_1': 1200,
      'quartile_3': 1300,
    }
  }
  text = ' '.join(_benchmark_report.describe(record).split())
  for part in (
    'Peak of a device: 989.40 TFLOP/s, dense',
    'included: 12.35 GB',
    'unknown unknown 32.2%',
    '1,234 images/s, quartiles 1,200-1,300',
  ):
    assert part in text


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--suite=speed'], "unknown suite 'speed'; known: step, train, losses"),
    (['--rounds=1'], '--rounds=1'),
    (['--steps_per_round=0'], '--steps_per_round=0'),
    (['--batch_size=many'], '--batch_size=many'),
    (['--out=/dev/null/out.json'], '/dev/null/out.json cannot be written'),
    (['--learning_rate=1'], '--steps_per_round'),
  ],
)
def test_a_wrong_flag_is_one_line(arguments, message):
  code, out, err = run(*arguments)
  assert (code, out) == (2, '')
  assert len(err.strip().splitlines()) == 1, err
  assert err.startswith('error: ')
  assert message in err


def test_too_little_memory_is_one_line():
  code = """if True:
    import jax
    from experiments import _cli, benchmark
    from experiments import _benchmark_step
    def measure(settings):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    _benchmark_step.measure = measure
    _cli.run(benchmark.main)
  """
  code, _, err = run(program=('-c', code))
  assert code == 2
  assert len(err.strip().splitlines()) == 1, err
  assert 'try a smaller --batch_size' in err


def test_help_imports_nothing_heavy():
  code = (
    'import sys, experiments.benchmark;'
    "print({'jax', 'flax', 'numpy', 'grain'} & sys.modules.keys())"
  )
  _, out, _ = run(program=('-c', code))
  assert out.strip() == 'set()'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model': 'resnet51'}, 'known: .*resnet50'),
    ({'dtype': 'float16'}, 'known: bfloat16'),
    ({'model': 'resnet18', 'image_size': 4}, 'expected at least 8x8'),
    ({'model': 'vit_tiny', 'image_size': 24}, 'patches of 16x16'),
    ({'batch_size': 6}, r'--batch_size=6 is not a multiple of the 4 devices'),
  ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
  def prepare():
    settings = _benchmark_step.choose_settings(**changes)
    _benchmark_step.build(settings, _benchmark_step.create_model(settings)[1])

  with pytest.raises(UsageError, match=message):
    prepare()


def test_defaults_of_the_platforms(monkeypatch):
  on_cpu = _benchmark_step.choose_settings(rounds=3)
  assert (on_cpu.model, on_cpu.batch_size, on_cpu.rounds) == ('resnet18', 64, 3)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  on_gpu = _benchmark_step.choose_settings()
  assert (on_gpu.model, on_gpu.dtype) == ('resnet50', 'bfloat16')
  assert on_gpu.batch_size == 4 * 256
  options, _ = _benchmark_step.create_model(on_gpu)
  assert options['stem'] == 'imagenet'


def test_one_step_over_several_devices():
  settings = _benchmark_step.choose_settings(
    model='resnet8', image_size=8, batch_size=16
  )
  train_steps, state = _benchmark_step.build(
    settings, _benchmark_step.create_model(settings)[1]
  )
  batch = _benchmark_step.synthetic_batch(settings)
  costs = {}
  for devices in (Devices(), Devices(jax.devices()[:1])):
    costs[devices.count] = _benchmark_costs.flops_as_written(
      train_steps['maxsup'], devices.replicate(state), devices.shard(batch)
    )
  # Each device has a quarter of the images, but updates all parameters.
  assert costs[1] / 4 < costs[4] < costs[1] / 3

  devices = Devices()
  runner = _benchmark_step.Runner(
    train_steps['maxsup'], state, devices.shard(batch), devices
  )
  first = runner.first_step()
  assert 0 < first['nll'] < first['objective']
  assert runner.seconds_per_step(2) > 0
  flops = runner.program()['flops_per_device']
  assert flops['as_written'] == costs[4]
  assert flops['as_compiled'] == pytest.approx(costs[4], rel=0.1)


def test_flops_are_those_of_one_device():
  def step(w, x):
    return w, x @ w

  for devices in (Devices(), Devices(jax.devices()[:1])):
    w = devices.replicate(np.ones((16, 4), np.float32))
    x = devices.shard(np.ones((8 * devices.count, 16), np.float32))
    expected = 2 * 8 * 16 * 4
    assert _benchmark_costs.flops_as_written(step, w, x) == expected
    compiled = devices.map(step).lower(w, x).compile()
    assert _benchmark_costs.flops(compiled) == expected


def test_costs_that_the_platform_does_not_tell(monkeypatch):
  class Program:
    def __init__(self, cost):
      self.cost = cost

    def cost_analysis(self):
      return self.cost

    def memory_analysis(self):
      return None

  for cost in (None, {}, {'flops': -1.0}):
    assert _benchmark_costs.flops(Program(cost)) is None
  assert _benchmark_costs.memory(Program(None)) is None
  assert _benchmark_costs.rate(None, 0.1, 1e12) == {
    'flops_per_second_per_device': None,
    'share_of_peak': None,
  }

  def no_cpu(backend):
    raise RuntimeError(f'Unknown backend {backend}')

  monkeypatch.setattr(jax, 'local_devices', no_cpu)
  assert _benchmark_costs.flops_as_written(jnp.add, (), ()) is None


def test_rate_and_share_of_the_peak():
  assert _benchmark_costs.rate(3e12, 0.5, 24e12) == {
    'flops_per_second_per_device': 6e12,
    'share_of_peak': 0.25,
  }
  unknown_peak = _benchmark_costs.rate(3e12, 0.5, None)
  assert unknown_peak['share_of_peak'] is None


def test_peaks():
  peak = _benchmark_costs.peak_flops
  assert peak('NVIDIA A100-SXM4-80GB', 'float32') == 156e12
  assert peak('TPU v5 lite', 'bfloat16') == 197e12
  assert peak('cpu', 'float32') is None
  with jax.default_matmul_precision('highest'):
    assert peak('NVIDIA A100-SXM4-80GB', 'float32') is None
    assert peak('NVIDIA A100-SXM4-80GB', 'bfloat16') == 312e12


def test_peak_memory_is_that_of_the_fullest_device():
  class Device:
    def __init__(self, stats):
      self.stats = stats

    def memory_stats(self):
      return self.stats

  devices = [Device({'peak_bytes_in_use': n}) for n in (5, 7)]
  assert _benchmark_costs.peak_memory([*devices, Device(None)]) == 7
  assert _benchmark_costs.peak_memory([Device(None), Device({})]) is None


def test_objectives_take_turns_in_every_order():
  log = []

  def timer(name):
    def seconds_per_step(count):
      log.append((name, count))
      return len(log)

    return seconds_per_step

  said = []
  orders, seconds = _benchmark_timing.time_in_turn(
    {name: timer(name) for name in 'abc'}, 6, 5, said.append
  )
  assert sorted(map(tuple, orders)) == list(itertools.permutations('abc'))
  # A round that does not count goes before.
  assert log == [(name, 5) for order in ['abc', *orders] for name in order]
  for name in 'abc':
    assert seconds[name] == [
      4 + 3 * i + order.index(name) for i, order in enumerate(orders)
    ]
  assert said[-1] == 'round 6 of 6'


def test_summary():
  assert _benchmark_timing.summary([4.0, 1.0, 2.0, 3.0]) == {
    'median': 2.5,
    'quartile_1': 1.75,
    'quartile_3': 3.25,
    'min': 1.0,
    'max': 4.0,
  }


def test_ratios_are_taken_round_by_round():
  # Round 2 was slow for both, and cancels out.
  ratio = _benchmark_timing.ratios([1.5, 12.0, 1.0], [1.0, 10.0, 1.0])
  assert ratio['per_round'] == [1.5, 1.2, 1.0]
  assert ratio['median'] == 1.2
  with pytest.raises(ValueError, match='zip'):
    _benchmark_timing.ratios([1.0], [1.0, 2.0])


def test_derived_numbers():
  program = {'flops_per_device': {'as_written': 8e9, 'as_compiled': 9e9}}
  row = _benchmark_step.derived(
    [0.5, 0.25, 0.25],
    [0.25, 0.25, 0.5],
    batch_size=100,
    program=program,
    peak=64e9,
  )
  assert row['step_seconds']['median'] == 0.25
  assert row['ratio_to_ce']['per_round'] == [2, 1, 0.5]
  assert row['ratio_to_ce']['median'] == 1
  assert row['images_per_second'] == 400
  assert row['flops_per_second_per_device'] == 32e9
  assert row['share_of_peak'] == 0.5
  assert row.items() >= program.items()


@pytest.mark.parametrize(
  ('per_round', 'met', 'text'),
  [
    ([1.001, 1.002, 1.003, 1.004, 1.005], True, 'the target is met'),
    ([0.95] * 5, True, 'the target is met'),
    ([1.019, 1.02, 1.02, 1.02, 1.021], False, 'the target is missed'),
    ([0.99, 0.99, 1.0, 1.02, 1.02], None, '3.00% .* this machine cannot tell'),
    ([1.0] * 4, None, 'fewer than 5 rounds'),
  ],
)
def test_verdict(per_round, met, text):
  ratio = {'per_round': per_round, **_benchmark_timing.summary(per_round)}
  verdict = _benchmark_timing.verdict(ratio)
  assert verdict['met'] is met
  assert pytest.approx(1.01) == verdict['ratio_at_most']
  assert re.search(text, verdict['text'])


def test_the_pipeline_alone():
  settings = _benchmark_step.choose_settings(
    image_size=8, batch_size=16, rounds=2
  )
  measured = _benchmark_pipeline.measure(settings)
  rate = measured['images_per_second']
  assert len(rate['per_round']) == 2
  assert rate['quartile_3'] >= rate['median'] >= rate['min'] > 0
  assert measured['reason'] is None
  assert measured['transform'] == 'pad_and_crop(4) | flip'


def test_a_pipeline_that_is_broken_is_no_missing_package(monkeypatch):
  settings = _benchmark_step.choose_settings(
    image_size=8, batch_size=16, rounds=2
  )
  monkeypatch.setitem(sys.modules, 'maxsup_jax.data', None)
  with pytest.raises(ModuleNotFoundError, match=r'maxsup_jax\.data'):
    _benchmark_pipeline.measure(settings)
  monkeypatch.setitem(sys.modules, 'grain', None)
  reason = _benchmark_pipeline.measure(settings)['reason']
  assert reason == 'grain is not installed'
