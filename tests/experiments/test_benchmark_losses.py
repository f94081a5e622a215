"""Value and gradient of each loss, side by side."""

import json

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmark import losses as suite
from experiments.benchmark.loss_entries import LOSSES, Entry, baseline
from maxsup_jax.errors import UsageError
from tests.experiments.quickly import compiled_quickly
from tests.experiments.test_benchmark import of_machine, run

B, K = 8, 16


def measure(*losses, **changes):
  given = {'shapes': [f'{B}x{K}'], 'rounds': 2, 'steps_per_round': 1}
  with compiled_quickly():
    return suite.measure(losses=losses or None, **given | changes)


@pytest.fixture(scope='module')
def record():
  """All losses, whose competitors must compute the same, and more exactly."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(suite._TOLERANCES, 'float32', 1e-5)
    return of_machine(measure(shapes=[f'{B}x{K}', '4000000x1000000']))


def test_the_numbers_follow_from_the_rounds(record):
  shape = record['results']['shapes'][0]
  size = 4 * B * K
  assert (shape['logits_bytes'], shape['limit_bytes']) == (size, 3 * size)
  base = shape['baseline']
  assert base['ratio_to_baseline']['per_round'] == [1, 1]
  assert base['bytes_ratio'] == 1
  assert list(shape['losses']) == list(LOSSES)
  timed = {name for order in shape['round_orders'] for name in order}
  for name, loss in shape['losses'].items():
    rows = [loss['ours']]
    for kind, there in (('composed', 'composition'), ('torch', 'torch')):
      took_part = loss[kind] is not None
      if kind == 'composed' or not record['settings']['no_torch']:
        assert took_part == bool(getattr(LOSSES[name], there))
      if took_part:
        assert f'{name} {kind}' in timed
        rows.append(loss[kind])
        ours, theirs = loss['ours']['seconds'], loss[kind]['seconds']
        assert loss[f'ratio_to_{kind}']['per_round'] == [
          a / b for a, b in zip(ours['per_round'], theirs['per_round'])
        ]
    for row in rows:
      assert row['ratio_to_baseline']['per_round'] == [
        a / b
        for a, b in zip(
          row['seconds']['per_round'], base['seconds']['per_round']
        )
      ]
      assert row['value'] == pytest.approx(rows[0]['value'], rel=1e-5)
    accessed = rows[0]['bytes_accessed']
    assert rows[0]['passes'] == accessed / size
    assert rows[0]['bytes_ratio'] == accessed / base['bytes_accessed']
    temporaries = rows[0]['memory_bytes']['temporaries']
    assert rows[0]['temporaries_share'] == temporaries / size
  assert len({x['ours']['value'] for x in shape['losses'].values()}) > 12


def test_a_shape_that_does_not_fit_memory_is_named(record):
  shape = record['results']['shapes'][1]
  assert shape.keys() == {'batch', 'classes', 'logits_bytes', 'reason'}
  assert 'it needs 32,000.0 GB' in shape['reason']
  told = ' '.join(suite.describe(record))
  assert '[4000000, 1000000]: not measured, it needs 32,000.0 GB' in told
  assert 'composed MaxSup' in told


@pytest.mark.parametrize('kind', ['composition', 'torch'])
@pytest.mark.parametrize('gradient_only', [False, True])
def test_a_competitor_that_computes_something_else_is_refused(
  monkeypatch, kind, gradient_only
):
  if kind == 'torch':
    pytest.importorskip('torch')
  entry = LOSSES['maxsup']
  original = getattr(entry, kind)

  def broken(*inputs):
    values = original(*inputs)
    if not gradient_only:
      return 1.01 * values
    if kind == 'torch':
      return 1.01 * values - 0.01 * values.detach()
    return 1.01 * values - 0.01 * jax.lax.stop_gradient(values)

  monkeypatch.setitem(LOSSES, 'maxsup', entry._replace(**{kind: broken}))
  with pytest.raises(UsageError, match=r'maxsup: ours and .* apart in'):
    measure('maxsup')


def test_further_arrays_and_rows_that_do_not_fit(monkeypatch):
  def table(logits, labels, extras):
    return baseline(logits, labels) - extras['w'][labels]

  def greedy(logits, labels, _):
    # Sorting cannot be fused: the table of 16 MB has to be somewhere.
    large = jnp.sort(logits[..., None] * jnp.arange(2.0**15), -1)
    return baseline(large[..., -1], labels)

  entry = Entry(
    'Table', table, lambda key, b, k: {'w': jax.random.normal(key, (k,))}
  )
  huge = entry._replace(extras=lambda *_: {'w': jnp.zeros((K, 10**14))})
  entries = {
    'table': entry,
    'few': entry._replace(largest_classes=K - 1),
    'huge': huge,
    'greedy': Entry('Greedy', greedy),
  }
  for name, row in entries.items():
    monkeypatch.setitem(LOSSES, name, row)
  monkeypatch.setattr(suite, 'free_memory', lambda device: 10e6)
  measured = measure(*entries)
  (shape,) = measured['results']['shapes']
  ours = {name: x['ours'] for name, x in shape['losses'].items()}
  assert ours['table']['value'] != shape['baseline']['value']
  assert ours['table']['memory_bytes']['arguments'] >= 4 * (B * K + B + K)
  assert ours['few']['reason'] == 'measured up to K = 15'
  assert 'it needs 6,400,000.0 GB' in ours['huge']['reason']
  assert 'GB are free' in ours['greedy']['reason']
  assert ours['greedy']['temporaries_share'] > 2**14
  assert [n for n, x in ours.items() if x['seconds']] == ['table']
  told = ' '.join(suite.describe(of_machine(measured)))
  assert 'Not measured: Greedy, ours: it needs' in told


def test_without_pytorch_it_says_so(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'torch', None)
  record = of_machine(measure('ce'))
  assert record['settings']['no_torch'] == 'PyTorch is not installed'
  assert record['results']['shapes'][0]['losses']['ce']['torch'] is None


def test_compiled_for_a_tpu(tmp_path):
  pytest.importorskip('libtpu')
  out = tmp_path / 'out.json'
  code, printed, err = run(
    '--suite=losses', '--target=tpu', f'--shapes={B}x128', f'--out={out}'
  )
  assert code == 0, err
  record = json.loads(out.read_text())
  assert record['results']['device_kind'] == 'TPU v5 lite'
  (shape,) = record['results']['shapes']
  assert shape['baseline']['seconds'] is shape['baseline']['value'] is None
  for loss in shape['losses'].values():
    assert loss['ours']['bytes_accessed'] > 2 * shape['logits_bytes']
    assert loss['ours']['seconds'] is loss['torch'] is None
  assert 'compiled for TPU v5 lite' in printed


def test_without_libtpu_it_says_so():
  code = """if True:
    import importlib.util
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: (
      None if name == 'libtpu' else find(name, *rest)
    )
    from experiments import _cli
    from experiments.benchmark import __main__
    _cli.run(__main__.main)
  """
  given = '--suite=losses', '--target=tpu', '--out='
  code, out, err = run(*given, program=('-c', code))
  assert (code, out) == (2, '')
  assert len(err.strip().splitlines()) == 1, err
  assert 'pip install libtpu' in err


@pytest.mark.slow
def test_half_precision():
  (shape,) = measure(dtype='bfloat16')['results']['shapes']
  assert shape['logits_bytes'] == 2 * B * K
