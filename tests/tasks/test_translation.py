import contextlib
import dataclasses
import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maxsup_jax import losses, outputs, tasks
from maxsup_jax.data import text
from maxsup_jax.diagnostics import calibration, selective
from maxsup_jax.errors import UsageError
from maxsup_jax.models.transformer import Transformer
from maxsup_jax.studies import measuring
from maxsup_jax.studies.measures import MEASURES, OF_TRUTH
from maxsup_jax.tasks import extraction, fused, torch_runs, translating
from maxsup_jax.tasks.translation import truth_sums
from maxsup_jax.training import loop
from maxsup_jax.training.parallel import Devices
from maxsup_jax.training.schedules import learning_rate_schedule
from tests.runs import assert_same_bits, last_state, timeless
from tests.training.regression import check_contract

pytestmark = pytest.mark.usefixtures('cached_compilations')

CONFIG = {
  'task': 'translation',
  'duration': '6 steps',
  'batch_size': 256,
  'eval_batch_size': 1024,
  'dataset': {'name': 'phrases/150x30', 'buckets': (24,)},
  'objective': {'name': 'maxsup', 'alpha': 0.1},
  'schedule': {'warmup': '2 steps'},
  'log_every': '2 steps',
  'eval_every': '6 steps',
  'checkpoint_every': '3 steps',
}
MODEL = Transformer(
  562, dim=8, depth=1, heads=2, hidden=8, dropout=0.1, batch_axis='devices'
)


def build(model=MODEL, devices=1, **changes):
  config = tasks.resolve(CONFIG | changes)
  devices = Devices(jax.devices()[:devices])
  return tasks.build(config, model=model, devices=devices)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  path = tmp_path_factory.mktemp('runs') / 'run'
  run = build()
  return path, run, loop.train(run, tasks.open_workdir(path, writes=True))


class Given:
  """A model that says what it is told."""

  def __init__(self, logits):
    self.logits = logits

  def apply(self, variables, source, target, **_):
    return self.logits, {'penultimate': None}


def test_the_contract():
  task = build().task
  check_contract(task)
  assert task.train_examples == (task.train.data.target.ids > 0).sum()
  assert len(task.vocabulary) == 562
  # What the defaults build, nothing is computed.
  run = tasks.build(tasks.resolve({'task': 'translation'}))
  assert 'transformer_tiny: 268,160 parameters' in run.summary()


def test_it_trains_and_is_opened_again(trained):
  path, run, records = trained
  (record,) = records
  task = run.task
  assert record['examples'] == len(task.evaluation.data.target.ids)
  assert record['nll'] < np.log(562) + 1
  assert record['entropy'] == pytest.approx(0.22, abs=0.08)
  # Its 30 sentences were drawn: NLL and KL + entropy differ by chance alone.
  assert record['nll'] == pytest.approx(
    record['kl_to_truth'] + record['entropy'], abs=0.2
  )
  lines = timeless(path)
  filled = [r['filled'] for r in lines if r['kind'] == 'train']
  assert all(0.2 < share < 0.9 for share in filled)
  loaded = tasks.load_run(path, model=MODEL, devices=run.devices)
  (again,) = loaded.evaluate()
  assert all(record[name] == again[name] for name in ('nll', 'ece', 'accuracy'))
  vocabulary = text.read_vocabulary(path / 'vocabulary.json')
  assert text.digest(vocabulary) == text.digest(task.vocabulary)


def test_training_without_logits_is_the_same(monkeypatch):
  """Losses, gradients and sums; nothing of the size of the logits is there."""
  monkeypatch.setattr(fused, 'FUSED_FROM', 1)
  objective = CONFIG['objective'] | {'fused': True}
  model = MODEL.clone(dropout=0.0)
  task = build(model, objective=objective).task
  variables = task.init_variables(jax.random.key(0))
  batch = jax.tree.map(lambda x: x[None], next(task.train_batches(0)))
  size = batch['target'].size

  def step(task):
    def mean(params, batch):
      values, where, aux = task.train_loss(
        {'params': params},
        batch,
        step=jnp.int32(0),
        objective_state=(),
        key=jax.random.key(1),
      )
      return (values * jnp.arange(size)).mean(), (values, where, aux)

    gradient = jax.grad(mean, has_aux=True)
    return jax.jit(jax.vmap(gradient, (None, 0), axis_name='devices'))

  arguments = variables['params'], batch
  dense = dataclasses.replace(task, fused=False)
  compiled = [step(t).lower(*arguments).compile() for t in (task, dense)]
  at = [f'{size},562]' in c.as_text() for c in compiled]
  assert at == [False, True]
  found, expected = (c(*arguments) for c in compiled)
  del expected[1][2].sums['top5']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 3e-5, 2e-5), found, expected
  )
  with pytest.raises(UsageError, match='fused is True; expected False for'):
    build(objective={'name': 'focal', 'fused': True})


def test_killed_and_resumed_it_is_the_same_run(trained, tmp_path, monkeypatch):
  path, run, _ = trained
  workdir = tasks.open_workdir(tmp_path / 'run', writes=True)
  batches = type(run.task).train_batches

  def cut(self, start):
    for at, batch in enumerate(batches(self, start), start):
      if at == 4:
        raise KeyboardInterrupt
      yield batch

  with monkeypatch.context() as patch:
    patch.setattr(type(run.task), 'train_batches', cut)
    with pytest.raises(KeyboardInterrupt):
      loop.train(build(), workdir)
  loop.train(build(), workdir)
  assert_same_bits(last_state(run, path), last_state(run, workdir.path))
  assert timeless(path) == timeless(workdir.path)
  # Another vocabulary has the same shapes: only its words tell.
  words = [f'word{i}' for i in range(559)]
  kept = workdir.path / 'vocabulary.json'
  kept.write_bytes(text.Words(words).content())
  with pytest.raises(UsageError, match='is not what the data of this run give'):
    loop.train(build(), workdir)


@pytest.fixture(scope='module')
def loaded(trained):
  path, run, _ = trained
  return tasks.load_run(path, model=MODEL, devices=run.devices)


def test_greedy_translations_are_the_likeliest_tokens(loaded):
  texts = ['half past four', '', 'a big sofa', 'zzz , 漢字', 'the old car']
  translator = translating.Translator(loaded, beams=1, rows=5)
  told = []
  found = translator(texts, progress=told.append)
  assert found[1] == ''
  assert sum(told) == 5
  # Each on its own, and without the cache.
  assert [translator([t])[0] for t in texts] == found
  vocabulary, variables = loaded.task.vocabulary, loaded.variables
  limit = 2 * 24 + 10
  encoded = [vocabulary.encode(t) for t in texts if t]
  targets = [vocabulary.encode(t)[:limit] for t in found if t]
  assert len(targets) == 4
  # Nothing unknown is said, of which there are two in the fourth.
  assert not any(text.UNK in ids for ids in targets)
  rows = np.arange(4)
  logits, _ = jax.jit(MODEL.apply)(
    {'params': variables['params']},
    text.Ragged.of(encoded).padded(rows, 4, 24),
    text.Ragged.of(targets).padded(rows, 4, limit),
  )
  logits = np.array(logits)
  logits[..., [text.PAD, text.UNK]] = -np.inf
  for row, ids in zip(logits, targets):
    assert row[: len(ids)].argmax(-1).tolist() == ids
  assert [translator._width(n) for n in (3, 24, 25, 33)] == [24, 24, 32, 40]


def test_temperatures_change_nll_alone(loaded, trained):
  (record,) = trained[2]
  one, two = translating.next_tokens(loaded, [1.0, 2.0])
  for name in ('nll', 'ece', 'accuracy', 'kl_to_truth', 'objective'):
    assert one[name] == pytest.approx(record[name], rel=1e-5)
  assert two['accuracy'] == one['accuracy']
  assert abs(two['nll'] - one['nll']) > 0.01


@pytest.fixture(scope='module')
def logits(loaded):
  """Those of the real tokens, in the order of the data, and their labels."""
  task = loaded.task
  data, rows = task.evaluation.data, np.arange(30)
  (width,) = task.evaluation.widths
  batch = [x.padded(rows, 30, width) for x in (data.source, data.target)]
  z, out = jax.jit(MODEL.apply)(loaded.variables, *batch)
  real = batch[1] > 0
  return (
    np.asarray(z)[real],
    batch[1][real],
    np.asarray(out['penultimate'])[real],
  )


def test_tokens_are_those_of_the_logits(loaded, logits):
  z, labels, _ = logits
  found = translating.tokens(loaded, [1.0, 0.5])
  lengths = loaded.task.evaluation.data.target.lengths
  assert found.sentences.tolist() == np.repeat(np.arange(30), lengths).tolist()
  for i, temperature in enumerate((1.0, 0.5)):
    expected = calibration.per_example(z, labels, temperature=temperature)
    np.testing.assert_allclose(found.nll[i], expected.nll, atol=2e-5)
    np.testing.assert_allclose(
      found.confidence[i], expected.confidence, rtol=2e-5
    )
    assert (found.correct == expected.correct).all()
  p = calibration.per_example(z, labels).confidence
  np.testing.assert_allclose(found.log_odds, np.log(p / (1 - p)), atol=1e-3)
  some = found.of(np.array([3, 7]))
  assert len(some.correct) == lengths[[3, 7]].sum() == some.nll.shape[1]


def test_a_temperature_is_fitted_to_half_of_the_sentences(loaded, logits):
  """Against the exact search on the logits of that half."""
  z, labels, _ = logits
  params = dict(loaded.variables['params'])
  # So that a temperature of 1.5 is the best, and not one of 10.
  params['decoder_norm'] = jax.tree.map(
    lambda x: 0.15 * x, params['decoder_norm']
  )
  z = np.float32(0.15) * z
  fit = translating.fit_temperature(
    loaded, seed=3, variables={'params': params}
  )
  half = np.random.default_rng(3).permutation(30)[:15]
  chosen = np.isin(fit.tokens.sentences, half)
  assert 0.3 < chosen.mean() < 0.7
  exact = calibration.fit_temperature(z[chosen], labels[chosen])
  assert 0.5 < exact.temperature < 2
  assert fit.temperature == pytest.approx(exact.temperature, rel=2e-3)
  T, rest = fit.temperature, (z[~chosen], labels[~chosen])
  for temperature, nll, ece in (
    (1.0, fit.nll, fit.ece),
    (T, fit.nll_scaled, fit.ece_scaled),
  ):
    of = calibration.summary(
      calibration.per_example(*rest, temperature=temperature)
    )
    assert nll == pytest.approx(of.negative_log_likelihood, rel=1e-5)
    assert ece == pytest.approx(of.expected_calibration_error, abs=1e-4)
  grid = np.arange(0.8, 1.51, 0.05)
  errors = [
    calibration.summary(
      calibration.per_example(z[chosen], labels[chosen], temperature=t)
    ).expected_calibration_error
    for t in grid
  ]
  assert fit.ece_temperature == pytest.approx(grid[int(np.argmin(errors))])


def test_what_a_study_measures(loaded, trained, logits):
  (record,) = trained[2]
  found, curves = measuring.of_translation(loaded)
  assert set(found) | {'bleu'} <= set(MEASURES)
  assert {*OF_TRUTH, 'train_accuracy', 'ece', 'length_ratio'} <= set(found)
  # The best temperature is 10, which is beyond all that are tried.
  assert not {'log_temperature', 'nll_scaled', 'ece_scaled'} & set(found)
  for name in ('accuracy', 'nll', 'ece', 'kl_to_truth', 'true_calibration'):
    assert found[name] == pytest.approx(record[name], rel=1e-4), name
  z, labels, _ = logits
  msp = selective.scores(z, ('msp',))['msp']
  wrong = z.argmax(1) != labels
  expected = selective.aurc(selective.risk_coverage(msp, wrong))
  assert found['aurc'] == pytest.approx(expected, abs=1e-3)
  assert sum(curves['reliability']['count']) == len(labels)
  assert curves['eval']['nll'] == [record['nll']]
  assert ('bleu' in found) == ('signature' in curves)


def test_intervals_over_sentences_have_their_level():
  """Sentences of 5 to 15 tokens whose losses have something in common."""
  rng = np.random.default_rng(0)

  def drawn(n):
    length = rng.integers(5, 16, n)
    nll = rng.gamma(2, 1, n)[np.repeat(np.arange(n), length)]
    nll += rng.exponential(1, len(nll))
    # What BLEU counts: longer sentences have more of everything.
    totals = length[:, None] - np.arange(4)
    matches = rng.binomial(totals, rng.beta(5, 5, n)[:, None])
    counts = [matches, totals, length[:, None], length[:, None]]
    sentences = np.repeat(np.arange(n), length)
    nothing = np.zeros(len(nll))
    of = translating.Tokens(sentences, nothing, nothing, nll[None], nll[None])
    return of, np.concatenate(counts, 1)

  names = ['nll']
  with contextlib.suppress(ImportError):
    import sacrebleu  # noqa: F401

    names.append('bleu')
  every, counts = drawn(50_000)
  truth = {'nll': every.nll.mean()}
  if 'bleu' in names:
    truth['bleu'] = translating.bleu_of(counts.sum(0))
  inside = dict.fromkeys(names, 0)
  for seed in range(200):
    some, counts = drawn(200)
    found = translating.intervals(
      some, counts if 'bleu' in names else None, resamples=400, seed=seed
    )
    assert list(found) == names
    for name in names:
      low, high = found[name]
      inside[name] += low <= truth[name] <= high
  # 190 expected, with a standard deviation of 3. From draws of tokens, 119 of
  # the NLL are inside.
  assert 182 <= min(inside.values()) <= max(inside.values()) <= 198, inside


def test_figure_4(loaded, trained, monkeypatch):
  monkeypatch.setattr(translating, '_FIRST', 100)
  (record,) = trained[2]
  done = []
  found = translating.temperature_curve(
    loaded, [1.0, 0.5], beams=2, progress=done.append
  )
  assert sum(done) == 60
  assert found['sentences'] == 30
  assert found['fitted']['sentences'] == 15
  json.dumps(found, allow_nan=False)
  one, half = found['temperatures']
  assert one['nll'] == pytest.approx(record['nll'], rel=1e-5)
  (low, high), (least, most) = one['nll_interval'], one['ece_calibrated']
  assert low < one['nll'] < high
  assert 0 < least < most < 1
  tokens = translating.tokens(loaded, [0.5])
  assert half['first_10k'] == pytest.approx(
    {
      'nll': tokens.nll[0, :100].mean(),
      'ece': calibration.calibration_error(
        calibration.reliability_curve(
          tokens.confidence[0, :100], tokens.correct[:100]
        )
      ),
    },
    rel=1e-5,
  )


def test_tokens_are_examples_of_reports(loaded, logits, tmp_path):
  z, labels, features = logits
  path = tmp_path / 'all.npz'
  found = extraction.extract(loaded, path)
  assert (found.examples, found.source) == (len(z), 'phrases/150x30/test')
  read = outputs.read(path)
  for name, expected in (
    ('logits', z),
    ('features', features),
    ('labels', labels),
    ('groups', translating.tokens(loaded, [1.0, 0.5]).sentences),
  ):
    np.testing.assert_allclose(getattr(read, name), expected, atol=1e-5)
  assert read.linear
  assert read.class_names[:3] == ('<pad>', '</s>', '<unk>')
  ids = loaded.task.vocabulary.encode('halb')
  assert [read.class_name(k) for k in ids] == ['halb', '</s>']
  assert found.nll == pytest.approx(
    calibration.per_example(z, labels).nll.mean(), rel=1e-5
  )
  # Of some the sentences are whole.
  some = tmp_path / 'some.npz'
  extraction.extract(loaded, some, limit=100)
  few = outputs.read(some)
  assert 60 < few.num_examples <= 100
  chosen = np.isin(read.groups, few.groups)
  np.testing.assert_array_equal(few.labels, read.labels[chosen])
  np.testing.assert_array_equal(few.groups, read.groups[chosen])
  np.testing.assert_allclose(few.logits, read.logits[chosen], atol=1e-5)
  with pytest.raises(UsageError, match='room for at least 2 sentences'):
    extraction.extract(loaded, tmp_path / 'none.npz', limit=2)


def test_average_of_checkpoints(loaded):
  path = loaded.workdir.path
  earlier = tasks.load_run(path, 3, model=MODEL, devices=loaded.run.devices)
  mean = translating.averaged(loaded, 2)['params']['embedding']
  both = [r.variables['params']['embedding'] for r in (earlier, loaded)]
  np.testing.assert_allclose(mean, (both[0] + both[1]) / 2, rtol=1e-6)
  assert np.abs(both[0] - both[1]).max() > 1e-4
  with pytest.raises(UsageError, match='average is 3; expected at most 2'):
    translating.averaged(loaded, 3)


def test_what_translations_are_worth(monkeypatch):
  pairs = text.open_pairs('phrases/9x30', 'test')
  assert translating.valid_share(pairs.targets, pairs) == 1
  damaged = [*pairs.targets[:20], *(f'{t} und' for t in pairs.targets[20:])]
  assert translating.valid_share(damaged, pairs) == pytest.approx(2 / 3)
  assert translating.valid_share(['x'], text.Pairs('', ['a'], ['x'])) is None
  with pytest.raises(UsageError, match='30 references for 1 translations'):
    translating.score(['x'], pairs.targets)
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, 'sacrebleu.metrics', None)
    found = translating.score(['a b'], ['a b c d'])
    assert (found.bleu, found.length_ratio) == (None, 0.5)
    assert 'translation' in found.signature


def test_bleu():
  pytest.importorskip('sacrebleu', reason='needs the extra [translation]')
  lines = ['Ein Hund läuft über die Wiese.', 'Zwei Männer sitzen am Tisch.']
  same = translating.score([x.upper() for x in lines], lines)
  assert same.bleu == pytest.approx(100)
  assert same.signature.startswith('nrefs:1|case:lc|eff:no|tok:intl|smooth:exp')
  assert translating.score(['', ''], lines).bleu == 0
  # By hand: 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, none of 3 quadruples,
  # which counts as half; as long as the reference.
  found = translating.score(['a b c x e f'], ['a b c d e f'])
  some = [*lines, 'Ein Hund, der läuft.'], [*lines[::-1], 'Ein Hund läuft.']
  counts = translating.bleu_counts(*some)
  assert counts.shape == (3, 10)
  assert translating.bleu_of(counts.sum(0)) == pytest.approx(
    translating.score(*some).bleu
  )
  expected = (5 / 6 * 3 / 5 * 1 / 4 * (1 / 2) / 3) ** 0.25
  assert found.bleu == pytest.approx(100 * expected)


def test_other_runs_do_not_translate(loaded):
  other = SimpleNamespace(
    task=None,
    workdir=loaded.workdir,
    run=SimpleNamespace(config=SimpleNamespace(task='classification')),
  )
  with pytest.raises(UsageError, match='has a run of classification'):
    translating.Translator(other)


def test_what_is_for_classifiers_refuses_it(loaded, tmp_path):
  path = str(loaded.workdir.path)
  with pytest.raises(UsageError, match=r"config\.task is 'translation'"):
    extraction.extract(
      loaded, tmp_path / 'x.npz', augmentations=extraction.Augmentations(5)
    )
  with pytest.raises(UsageError, match='only it has'):
    torch_runs.export_weights(path, tmp_path / 'a.safetensors')


@pytest.mark.slow
def test_devices_change_nothing(trained):
  path, run, _ = trained
  state = run.init_state()
  found = []
  for count in (1, 2):
    two = build(devices=count)
    devices = two.devices
    step = devices.map(two.train_step())
    batch = devices.shard(next(run.task.train_batches(0)))
    new, sums = step(devices.replicate(state), batch)
    found.append((devices.fetch(new.params), devices.fetch(sums)))
  for a, b in zip(*map(jax.tree.leaves, found)):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
  texts = run.task.eval_pairs.sources[:5]
  one, two = (
    translating.Translator(
      tasks.load_run(path, model=MODEL, devices=Devices(jax.devices()[:n])),
      beams=2,
    )(texts)
    for n in (1, 2)
  )
  assert one == two


def test_objectives_count_real_tokens_alone():
  rng = np.random.default_rng(0)
  V, alpha = 562, 0.1
  target = np.array([[5, 9, 1, 0], [4, 1, 0, 0]], np.int32)
  logits = rng.normal(0, 3, (2, 4, V)).astype(np.float32)
  batch = {'source': target, 'target': target}
  conventions, tasks_of = ('others', 'kl'), []
  for convention in conventions:
    objective = {'name': 'ls', 'alpha': alpha, 'convention': convention}
    task = build(objective=objective).task
    tasks_of.append(dataclasses.replace(task, model=Given(jnp.asarray(logits))))
  nothing = {'step': 0, 'objective_state': ()}

  @jax.jit
  def computed(temperature):
    key, no = jax.random.key(0), {'params': {}}
    losses = [t.train_loss(no, batch, **nothing, key=key) for t in tasks_of]
    return losses, tasks_of[0].eval_sums(
      no, batch, **nothing, temperature=temperature
    )

  found, sums = computed(2.0)
  # tensor2tensor's formula, token by token, of a list without padding.
  z = logits.astype(np.float64)
  logq = z - np.logaddexp.reduce(z, -1, keepdims=True)
  hot = z / 2 - np.logaddexp.reduce(z / 2, -1, keepdims=True)
  tokens = [
    (row, t, i) for row, t in zip(*np.nonzero(target)) for i in [target[row, t]]
  ]
  for convention, (values, where, aux) in zip(conventions, found):
    expected = []
    for row, t, i in tokens:
      soft = np.full(V, alpha / (V - 1))
      soft[i] = 1 - alpha
      constant = (soft * np.log(soft)).sum() if convention == 'kl' else 0
      expected.append(constant - (soft * logq[row, t]).sum())
    assert where.tolist() == (target > 0).reshape(-1).tolist()
    np.testing.assert_allclose(values[where], expected, rtol=1e-5)
    assert not values[~where].any()
    total, count = aux.sums['nll']
    nll = -np.mean([logq[token] for token in tokens])
    assert total / count == pytest.approx(nll, rel=1e-5)
  report = task.report(jax.tree.map(np.float64, sums))
  nll = -np.mean([hot[token] for token in tokens])
  assert report['nll'] == pytest.approx(nll, rel=1e-5)
  assert report['accuracy'] == aux.sums['accuracy'][0] / count
  assert report['examples'] == 5


def test_maxsup_differs_from_smoothing_on_wrong_tokens_alone():
  rng = np.random.default_rng(1)
  logits = jnp.asarray(rng.normal(0, 2, (40, 7)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, 7, 40))
  smoothed = losses.label_smoothing_cross_entropy(logits, labels, 0.1)
  suppressed = losses.maxsup_cross_entropy(logits, labels, 0.1)
  right = np.asarray(logits.argmax(-1) == labels)
  assert 0 < right.sum() < 40
  np.testing.assert_allclose(smoothed[right], suppressed[right], rtol=1e-5)
  assert np.all(suppressed[~right] > smoothed[~right])


def test_truth_sums_are_the_formulas():
  rng = np.random.default_rng(0)
  N, V, C = 50, 9, 3
  logits = rng.normal(0, 2, (N, V)).astype(np.float32)
  p_NV = np.zeros((N, V))
  ids = np.zeros((N, C), np.int32)
  chances = np.zeros((N, C), np.float32)
  for n in range(N):
    count = rng.integers(1, C + 1)
    ids[n, :count] = rng.choice(np.arange(1, V), count, replace=False)
    chances[n, :count] = rng.dirichlet(np.ones(count))
    p_NV[n, ids[n, :count]] = chances[n, :count]
  labels = ids[:, 0]
  mask = rng.random(N) < 0.8
  sums = truth_sums(*map(jnp.asarray, (logits, labels, ids, chances, mask)))
  got = {name: float(a / b) for name, (a, b) in sums.items()}
  z = logits.astype(np.float64)
  q = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
  p, q, top = p_NV[mask], q[mask], z.argmax(-1)[mask]
  rows = np.arange(len(p))
  with np.errstate(divide='ignore', invalid='ignore'):
    entropy = -np.nansum(p * np.log(p), 1)
    kl = np.nansum(p * np.log(p / q), 1)
  certain = p.max(1) > 1 - 1e-6
  assert got == pytest.approx(
    {
      'kl_to_truth': kl.mean(),
      'entropy': entropy.mean(),
      'true_accuracy': p[rows, top].mean(),
      'bayes_accuracy': p.max(1).mean(),
      'true_calibration': np.abs(q.max(1) - p[rows, top]).mean(),
      'valid_mass': (q * (p > 0)).sum(1).mean(),
      'impossible': (p[rows, top] == 0).mean(),
      'certain_accuracy': (top == labels[mask])[certain].mean(),
    },
    rel=1e-4,
  )


def test_the_schedule_of_tensor2tensor():
  peak = 2 * 512**-0.5 * 8000**-0.5
  rate = learning_rate_schedule(
    'inverse_sqrt', peak, total_steps=300_001, warmup_steps=8000
  )
  for t in (0, 1, 4000, 8000, 8001, 32_000, 300_000):
    expected = 2 * 512**-0.5 * min(1, t / 8000) * max(t, 8000) ** -0.5
    assert float(rate(t)) == pytest.approx(expected, rel=2e-4), t
  assert float(rate(300_000)) == pytest.approx(1.61e-4, rel=5e-3)
  with pytest.raises(UsageError, match='needs a warmup'):
    learning_rate_schedule('inverse_sqrt', 1.0, total_steps=9)


def test_what_is_too_long_is_named(tmp_path):
  (tmp_path / 'a').write_text('a b c d\na\n\n')
  (tmp_path / 'b').write_text('x\nx y\nz\n')
  files = f'{tmp_path / "a"},{tmp_path / "b"}'
  dataset = {'name': f'lines:{files}', 'eval_split': files, 'buckets': (4,)}
  with pytest.warns(UserWarning, match='1 of 2 pairs are left out .* 1 more'):
    run = build(model=None, batch_size=8, dataset=dataset)
  assert run.task.left_out == {'empty': 1, 'too_long': 1}
  assert run.task.origin()['left_out'] == run.task.left_out
  # In evaluation all that is not empty counts.
  assert run.task.evaluation.too_long == 0
  assert len(run.task.vocabulary) == 3 + 6


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'task': 'translate'}, "config.task is 'translate'; did you mean"),
    ({'dataset': {'name': 'phrase'}}, 'phrase'),
    ({'dataset': {'buckets': (2,)}}, 'no pair of at most 2'),
    ({'dataset': {'vocabulary': 'bpm'}}, "dataset.vocabulary is 'bpm'"),
    ({'dataset': {'image_size': 8}}, 'unknown field config.dataset.image_size'),
    ({'batch_size': 8}, 'batch_size is 8 tokens'),
    ({'diagnostics_every': '1 epoch'}, 'config.diagnostics_every'),
    ({'model': {'name': 'resnet8'}}, "config.model: name is 'resnet8'"),
    (
      {'model': {'name': 'transformer_tiny', 'depth': 3}},
      "config.model: unknown option 'depth'",
    ),
    (
      {
        'objective': {
          'name': 'distillation',
          'beta': 1.0,
          'teacher_temperature': 1.0,
        }
      },
      'needs no teacher_logits',
    ),
  ],
)
def test_wrong_configurations(changes, message, tmp_path):
  with pytest.raises(UsageError, match=message) as error:
    tasks.build(
      tasks.resolve({'task': 'translation'} | changes), data_dir=str(tmp_path)
    )
  assert '\n' not in str(error.value)


def test_each_task_has_its_directories():
  config = tasks.resolve({})
  assert (
    tasks.default_workdir(config) == 'runs/digits-resnet8-maxsup-seed0-ca3d163b'
  )
  assert config.task == 'classification'
  other = tasks.default_workdir(tasks.resolve(CONFIG))
  assert other.startswith('runs/phrases-150x30-transformer_tiny-maxsup-seed0-')
  with pytest.raises(UsageError, match='which translates'):
    tasks.build(tasks.resolve({'model': {'name': 'transformer_tiny'}}))
