import copy
import importlib.metadata
import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
  _benchmark_costs,
  _benchmark_loss_programs,
  _benchmark_loss_report,
  _benchmark_loss_results,
  _benchmark_loss_suite,
  _benchmark_losses,
  _benchmark_timing,
)
from experiments._benchmark_losses import LOSSES, Entry
from maxsup_jax.errors import UsageError
from tests.experiments.test_benchmark import run

B, K = 8, 16

COMPETITORS = [
  (name, kind)
  for name, entry in LOSSES.items()
  for kind in ('composition', 'torch')
  if getattr(entry, kind)
]


def measure(**changes):
  settings = {
    'target': 'here',
    'shapes': [f'{B}x{K}'],
    'losses': None,
    'dtype': None,
    'rounds': 2,
    'steps_per_round': 1,
  }
  return _benchmark_loss_suite.measure(
    _benchmark_loss_suite.choose_settings(**settings | changes)
  )


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The output and the record of one small measurement, without PyTorch."""
  path = tmp_path_factory.mktemp('losses')
  # Python runs it before anything else.
  (path / 'sitecustomize.py').write_text(
    "import sys\nsys.modules['torch'] = None\n"
  )
  out = path / 'out.json'
  code, stdout, stderr = run(
    '--suite=losses',
    f'--shapes={B}x{K},4x8,4000000x1000000',
    '--losses=maxsup,ls',
    '--rounds=3',
    '--steps_per_round=2',
    f'--out={out}',
    PYTHONPATH=str(path),
  )
  assert code == 0, stderr
  return stdout, json.loads(out.read_text())


@pytest.fixture
def record(finished):
  return copy.deepcopy(finished[1])


@pytest.fixture
def device():
  return jax.local_devices()[0]


@pytest.fixture
def inputs():
  rng = np.random.default_rng(0)
  logits = jnp.asarray(3 * rng.normal(size=(B, K)), jnp.float32)
  return logits, jnp.arange(B, dtype=jnp.int32)


def extras_of(entry):
  return entry.extras and entry.extras(jax.random.key(1), B, K)


# The program


def test_the_record_says_what_ran_and_on_what(record):
  assert (record['schema'], record['suite']) == (1, 'losses')
  settings = record['settings']
  assert settings['losses'] == ['maxsup', 'ls']
  assert settings['shapes'] == [[B, K], [4, 8], [4_000_000, 1_000_000]]
  assert (settings['target'], settings['dtype']) == ('here', 'float32')
  results = record['results']
  assert results['platform'] == results['device_kind'] == 'cpu'
  assert results['memory_bandwidth'] is None
  assert [x['classes'] for x in results['shapes']] == [K, 8, 1_000_000]


def test_the_numbers_follow_from_the_rounds(record):
  for shape in record['results']['shapes'][:2]:
    assert (shape['rounds'], shape['steps_per_round']) == (3, 2)
    size = 4 * shape['batch'] * shape['classes']
    assert (shape['logits_bytes'], shape['limit_bytes']) == (size, 3 * size)
    names = {x for order in shape['round_orders'] for x in order}
    assert names == {
      'baseline ours',
      'maxsup ours',
      'maxsup composed',
      'ls ours',
      'ls composed',
    }
    baseline = shape['baseline']
    assert baseline['ratio_to_baseline']['per_round'] == [1, 1, 1]
    assert baseline['bytes_ratio'] == 1
    assert list(shape['losses']) == ['maxsup', 'ls']
    for loss in shape['losses'].values():
      for row in (loss['ours'], loss['composed']):
        seconds = row['seconds']['per_round']
        assert len(seconds) == 3
        assert min(seconds) > 0
        assert row['ratio_to_baseline']['per_round'] == [
          a / b for a, b in zip(seconds, baseline['seconds']['per_round'])
        ]
        accessed = row['bytes_accessed']
        assert row['passes'] == accessed / size > 2
        assert row['bytes_ratio'] == accessed / baseline['bytes_accessed']
        temporaries = row['memory_bytes']['temporaries']
        assert row['temporaries_share'] == temporaries / size
        assert row['times_limit'] is None
      assert loss['ratio_to_composed']['per_round'] == [
        a / b
        for a, b in zip(
          loss['ours']['seconds']['per_round'],
          loss['composed']['seconds']['per_round'],
        )
      ]
      assert loss['target'] is None
      # Both saw the same logits and labels.
      assert loss['ours']['value'] == pytest.approx(loss['composed']['value'])
    values = [x['ours']['value'] for x in shape['losses'].values()]
    assert len({baseline['value'], *values}) == 3


def test_without_pytorch_it_says_so(finished):
  printed, record = finished
  reason = 'PyTorch is not installed'
  assert record['settings']['no_torch'] == reason
  assert record['settings']['torch'] is None
  for loss in record['results']['shapes'][0]['losses'].values():
    assert loss['torch'] is loss['ratio_to_torch'] is None
  assert f'No comparison with PyTorch: {reason}' in printed


def test_a_shape_that_does_not_fit_memory_is_named(finished):
  printed, record = finished
  shape = record['results']['shapes'][2]
  assert shape.keys() == {'batch', 'classes', 'logits_bytes', 'reason'}
  assert 'it needs 32,000.0 GB' in shape['reason']
  words = ' '.join(printed.split())
  assert 'logits of 16.00 TB: not measured, it needs 32,000.0 GB' in words


def test_what_is_printed(finished):
  printed, record = finished
  lines = printed.splitlines()
  assert max(map(len, lines)) <= 80
  shape = record['results']['shapes'][0]
  heading = next(i for i, x in enumerate(lines) if 'quartiles' in x)
  assert f'[{B}, {K}], logits of 512.00 B' in ' '.join(lines[:heading])
  assert [x.split()[0] for x in lines[heading + 1 : heading + 6]] == [
    'optax',
    'MaxSup',
    'composed',
    'LS',
    'composed',
  ]
  row = shape['losses']['maxsup']['ours']
  assert lines[heading + 2].split() == [
    'MaxSup',
    f'{row["ratio_to_baseline"]["median"]:.2f}',
    f'{row["ratio_to_baseline"]["quartile_1"]:.2f}-'
    f'{row["ratio_to_baseline"]["quartile_3"]:.2f}',
    f'{row["bytes_ratio"]:.3f}',
    f'{row["passes"]:.2f}',
    f'{row["temporaries_share"]:.2%}',
    'unknown',
    '-',
  ]
  assert 'There is no target for cpu' in lines


def test_what_is_known_of_a_device_is_printed(record):
  results = record['results']
  results |= {'platform': 'gpu', 'memory_bandwidth': 4800e9}
  loss = results['shapes'][0]['losses']['ls']
  loss['ours']['times_limit'] = 1.234
  loss['ratio_to_torch'] = {'median': 0.567}
  loss['target'] = {'met': False, 'text': 'temporaries 0.500, at most 0.010'}
  text = ' '.join(_benchmark_loss_report.describe(record).split())
  for part in (
    '1.23 0.57',
    '4.80 TB/s here',
    'The target is missed by: LS (temporaries 0.500, at most 0.010)',
    'Target of LS and MaxSup on gpu: at most 1.10 times the time of optax CE',
  ):
    assert part in text


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--losses=maxsup,mixup'], "unknown 'mixup'; known: ce, ls, maxsup"),
    (['--shapes=8by16'], "'8by16' is no BATCHxCLASSES"),
    (['--shapes=0x16'], "'0x16' is no BATCHxCLASSES"),
    (['--target=gpu'], "unknown 'gpu'; known: here, tpu"),
    (['--dtype=float16'], "unknown 'float16'; known: float32, bfloat16"),
    (['--model=resnet8'], '--model belongs to --suite=step'),
  ],
)
def test_a_wrong_flag_is_one_line(arguments, message):
  code, out, err = run('--suite=losses', '--out=', *arguments)
  assert (code, out) == (2, '')
  assert len(err.strip().splitlines()) == 1, err
  assert err.startswith('error: ')
  assert message in err


def test_flags_of_this_suite_are_not_ignored_by_the_other():
  code, _, err = run('--out=', '--losses=ls')
  assert code == 2
  assert '--losses belongs to --suite=losses' in err


# The table


@pytest.mark.parametrize('name', LOSSES)
def test_a_row_fits_the_report(name):
  assert 0 < len(LOSSES[name].title) < _benchmark_loss_report.TITLE_WIDTH


@pytest.mark.parametrize(('name', 'kind'), COMPETITORS)
def test_what_competes_computes_the_same(name, kind, inputs, device):
  entry = LOSSES[name]
  inputs = *inputs, extras_of(entry)
  value, gradient = _benchmark_loss_programs.compile_loss(
    device, entry.loss, inputs
  )(*inputs)
  if kind == 'torch':
    torch = pytest.importorskip('torch')
    logits, labels, extras = jax.tree.map(torch.from_dlpack, inputs)
    logits.requires_grad_()
    other = entry.torch(torch, logits, labels.to(torch.int64), extras)
    assert other.shape == (B,)
    other.mean().backward()
    other_value, other_gradient = other.mean().item(), logits.grad.numpy()
  else:
    other_value, other_gradient = _benchmark_loss_programs.compile_loss(
      device, entry.composition, inputs
    )(*inputs)
  np.testing.assert_allclose(value, other_value, rtol=1e-5)
  np.testing.assert_allclose(gradient, other_gradient, rtol=0, atol=1e-5)


def test_pytorch_takes_part_where_it_is_installed():
  pytest.importorskip('torch')
  measured = measure(losses=['maxsup'])
  assert measured['settings']['no_torch'] is None
  assert measured['settings']['torch_threads'] >= 1
  (shape,) = measured['results']['shapes']
  loss = shape['losses']['maxsup']
  assert loss['torch']['value'] == pytest.approx(loss['ours']['value'])
  assert loss['ratio_to_torch']['per_round'] == [
    a / b
    for a, b in zip(
      loss['ours']['seconds']['per_round'],
      loss['torch']['seconds']['per_round'],
    )
  ]


# Rows with arrays of their own, and rows that do not fit


def table(logits, labels, extras):
  return _benchmark_losses.baseline(logits, labels, None) - extras['w'][labels]


TABLE = Entry(
  'Table',
  table,
  extras=lambda key, batch, classes: {'w': jax.random.normal(key, (classes,))},
  composition=table,
)


def test_further_arrays_are_made_once_for_all(monkeypatch):
  monkeypatch.setitem(LOSSES, 'table', TABLE)
  (shape,) = measure(losses=['table'])['results']['shapes']
  row = shape['losses']['table']
  assert row['ours']['value'] == row['composed']['value']
  assert row['ours']['value'] != shape['baseline']['value']
  assert row['ours']['memory_bytes']['arguments'] >= 4 * (B * K + B + K)


def test_a_row_with_too_many_classes_says_why(monkeypatch):
  monkeypatch.setitem(LOSSES, 'table', TABLE._replace(largest_classes=K - 1))
  measured = measure(losses=['table', 'ce'])
  row = measured['results']['shapes'][0]['losses']['table']
  assert row['ours']['reason'] == 'measured up to K = 15'
  assert row['ours']['seconds'] is row['composed'] is None


def test_arrays_that_do_not_fit_are_named(monkeypatch):
  huge = TABLE._replace(extras=lambda key, b, k: {'w': jnp.zeros((k, 10**14))})
  monkeypatch.setitem(LOSSES, 'table', huge)
  losses = measure(losses=['table', 'ce'])['results']['shapes'][0]['losses']
  assert 'it needs 6,400,000.0 GB' in losses['table']['ours']['reason']
  assert losses['ce']['ours']['seconds']


def test_a_program_that_does_not_fit_is_named(monkeypatch, finished):
  def greedy(logits, labels, extras):
    del extras
    # Sorting cannot be fused: the table of 16 MB has to be somewhere.
    table = jnp.sort(logits[..., None] * jnp.arange(2.0**15), -1)
    return _benchmark_losses.baseline(table[..., -1], labels, None)

  monkeypatch.setitem(LOSSES, 'greedy', Entry('Greedy', greedy))
  monkeypatch.setattr(
    _benchmark_loss_programs, 'free_memory', lambda device: 10e6
  )
  measured = measure(losses=['greedy', 'ce'])
  losses = measured['results']['shapes'][0]['losses']
  assert 'GB are free' in losses['greedy']['ours']['reason']
  assert losses['greedy']['ours']['temporaries_share'] > 2**14
  assert losses['ce']['ours']['seconds']
  text = _benchmark_loss_report.describe(finished[1] | measured)
  assert 'Not measured: Greedy: it needs' in text


@pytest.mark.parametrize(
  'text',
  [
    'RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes',
    'CUDA out of memory. Tried to allocate 20.00 GiB',
    "DefaultCPUAllocator: can't allocate memory",
  ],
)
def test_running_out_of_memory_is_named(monkeypatch, text):
  def fail(self):
    raise RuntimeError(text)

  program = _benchmark_loss_programs.TorchProgram
  pytest.importorskip('torch')
  monkeypatch.setattr(program, 'value', fail)
  losses = measure(losses=['ce'])['results']['shapes'][0]['losses']
  assert losses['ce']['torch']['reason'] == 'it ran out of memory'
  assert losses['ce']['ours']['seconds']
  assert losses['ce']['ratio_to_torch'] is None


def test_other_faults_are_not_hidden(monkeypatch):
  def fail(self):
    raise RuntimeError('INTERNAL: a fault')

  monkeypatch.setattr(_benchmark_loss_programs.JaxProgram, 'value', fail)
  with pytest.raises(RuntimeError, match='a fault'):
    measure(losses=['ce'])


def test_free_memory_of_a_device_that_tells():
  stats = {'bytes_limit': 1000, 'bytes_in_use': 200}
  device = types.SimpleNamespace(memory_stats=lambda: stats)
  assert _benchmark_loss_programs.free_memory(device) == pytest.approx(720)
  assert _benchmark_loss_programs.lacks_memory(device, 700) is None
  assert 'it needs' in _benchmark_loss_programs.lacks_memory(device, 800)


# What follows from the numbers


def row(temporaries=0.0, bytes_ratio=1.0, time=1.0, rounds=5):
  per_round = [time] * rounds
  ratio = {'per_round': per_round, **_benchmark_timing.summary(per_round)}
  return {
    'temporaries_share': temporaries,
    'bytes_ratio': bytes_ratio,
    'ratio_to_baseline': ratio,
  }


@pytest.mark.parametrize(
  ('platform', 'changes', 'met', 'text'),
  [
    ('tpu', {'bytes_ratio': 1.01, 'temporaries': 0.01, 'time': 9}, True, ''),
    ('tpu', {'bytes_ratio': 1.02}, False, 'bytes 1.020, at most 1.010'),
    ('tpu', {'temporaries': 0.02}, False, 'temporaries 0.020, at most 0.010'),
    ('tpu', {'bytes_ratio': None}, None, 'bytes unknown'),
    ('gpu', {'bytes_ratio': 9, 'time': 1.09}, True, ''),
    ('gpu', {'time': 1.11}, False, 'time 1.11: the target is missed'),
    ('gpu', {'time': 1, 'rounds': 2}, None, 'fewer than 5 rounds'),
    ('gpu', {'temporaries': 1, 'rounds': 2}, False, 'temporaries 1.000'),
  ],
)
def test_verdict(platform, changes, met, text):
  verdict = _benchmark_loss_results.verdict(row(**changes), platform)
  assert verdict['met'] is met
  assert text in verdict['text']
  assert bool(verdict['text']) == bool(text)
  assert _benchmark_loss_results.verdict(row(**changes), 'cpu') is None


def test_time_over_that_of_three_passes(device):
  logits = jax.ShapeDtypeStruct((B, K), jnp.float32)
  labels = jax.ShapeDtypeStruct((B,), jnp.int32)
  compiled = _benchmark_loss_programs.compile_loss(
    device, _benchmark_losses.baseline, (logits, labels, None)
  )
  name = 'baseline', 'ours'
  section = _benchmark_loss_results.section(
    {'logits_bytes': 1.6e9, 'seconds': {name: [2e-3, 3e-3, 4e-3]}},
    types.SimpleNamespace(device_kind='NVIDIA H200', platform='gpu'),
    compiled={name: compiled},
    values={name: 1.0},
    reasons={},
    entries={},
  )
  assert section['limit_seconds'] == pytest.approx(1e-3)
  assert section['baseline']['times_limit'] == pytest.approx(3)


def test_bandwidths_are_known_where_peaks_are():
  assert _benchmark_costs.memory_bandwidth('NVIDIA H200') == 4800e9
  assert _benchmark_costs.memory_bandwidth('cpu') is None
  assert (
    _benchmark_costs._MEMORY_GB_PER_SECOND.keys()
    == _benchmark_costs._PEAK_TFLOPS.keys()
  )


def test_many_programs_take_turns_in_mixed_orders():
  names = [str(i) for i in range(25)]
  timers = {name: lambda count: 1.0 for name in names}
  orders, seconds = _benchmark_timing.time_in_turn(timers, 12, 1)
  assert all(sorted(order) == sorted(names) for order in orders)
  assert all(len(x) == 12 for x in seconds.values())
  # Neither the first nor who follows whom stays the same.
  assert len({order[0] for order in orders}) > 5
  pairs = [set(itertools.pairwise(order)) for order in orders]
  assert not set.intersection(*pairs)


# A TPU that is not there


def test_compiled_for_a_tpu(tmp_path):
  pytest.importorskip('libtpu')
  out = tmp_path / 'out.json'
  code, printed, err = run(
    '--suite=losses', '--target=tpu', f'--shapes={B}x128', f'--out={out}'
  )
  assert code == 0, err
  record = json.loads(out.read_text())
  results = record['results']
  assert results['device_kind'] == 'TPU v5 lite'
  assert results['memory_bandwidth'] == 819e9
  version = importlib.metadata.version('libtpu')
  assert record['versions']['libtpu'] == version
  (shape,) = results['shapes']
  assert shape['baseline']['seconds'] is shape['baseline']['value'] is None
  for name, loss in shape['losses'].items():
    assert loss['ours']['bytes_accessed'] > 2 * shape['logits_bytes']
    assert loss['ours']['seconds'] is loss['torch'] is None
    if name in ('ls', 'maxsup'):
      assert loss['target']['met'] in (True, False)
    else:
      assert loss['target'] is None
  assert 'nothing runs with --target=tpu' in printed
  assert 'accessed' in printed
  assert max(map(len, printed.splitlines())) <= 80


def test_without_libtpu_it_says_so():
  code = """if True:
    import importlib.util
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: (
      None if name == 'libtpu' else find(name, *rest)
    )
    from experiments import _cli, benchmark
    _cli.run(benchmark.main)
  """
  code, out, err = run(
    '--suite=losses', '--target=tpu', '--out=', program=('-c', code)
  )
  assert (code, out) == (2, '')
  assert len(err.strip().splitlines()) == 1, err
  assert 'pip install libtpu' in err


def test_defaults():
  flags = dict.fromkeys(
    ('shapes', 'losses', 'dtype', 'rounds', 'steps_per_round')
  )
  settings = _benchmark_loss_suite.choose_settings(target='here', **flags)
  assert settings.shapes == ((4096, 1000), (1024, 21843), (8192, 32000))
  assert settings.losses == tuple(LOSSES)
  assert settings.dtype == 'float32'
  flags['losses'] = ['ls', 'ls']
  settings = _benchmark_loss_suite.choose_settings(target='here', **flags)
  assert settings.losses == ('ls',)
  with pytest.raises(UsageError, match='unknown'):
    _benchmark_loss_suite.choose_settings(target='moon', **flags)


@pytest.mark.slow
def test_half_precision():
  (shape,) = measure(dtype='bfloat16')['results']['shapes']
  assert shape['logits_bytes'] == 2 * B * K
  assert all(np.isfinite(x['ours']['value']) for x in shape['losses'].values())
