"""Everything that a study measures of one trained run."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax import data, outputs, tasks
from maxsup_jax.diagnostics import (
  calibration,
  neural_collapse,
  projection,
  representation,
  selective,
)
from maxsup_jax.diagnostics.mutual_information import (
  class_logit_difference,
  mutual_information,
)
from maxsup_jax.diagnostics.transfer import STRENGTHS
from maxsup_jax.errors import UsageError
from maxsup_jax.outputs import Outputs
from maxsup_jax.studies import transfer
from maxsup_jax.studies.measures import OF_TRUTH
from maxsup_jax.studies.study import Study
from maxsup_jax.tasks import LoadedRun, extraction, translating
from maxsup_jax.training.checkpoints import Checkpoints
from maxsup_jax.training.evaluation import evaluate

BINS = 15
# Points of a risk-coverage curve that a figure needs.
_COVERAGES = np.linspace(0.02, 1, 50)
# Of a corrupted split; its 20 versions are 20 times as many.
_CORRUPTED_EXAMPLES = 1000
# As in the paper: two classes, so many examples of each, so many views.
_PAIR, _PER_CLASS, _VIEWS = (0, 1), 300, 5

Record = dict[str, Any]


def measure(
  study: Study, workdir: Path, data_dir: str | None = None
) -> tuple[dict[str, float], Record]:
  """Measures a run that is finished.

  The outputs on both splits are written into its `extract/`, where
  `experiments.diagnose` finds them, and read from there the next time.

  Args:
    study: what else is measured.
    workdir: of the run.
    data_dir: where datasets are prepared; None for the default of tfds.

  Returns:
    Numbers by the keys of `measures.MEASURES`, those that the run allows; and
    the curves that the figures of a study draw.
  """
  test = tasks.load_run(workdir, data_dir=data_dir)
  config = test.run.config
  if config.task == 'translation':
    return of_translation(test)
  if config.task == 'segmentation':
    return of_segmentation(test)
  train = tasks.load_run(
    workdir, data_dir=data_dir, split=config.dataset.train_split
  )
  found, curves = of_outputs(
    outputs.read(_extracted(test)), outputs.read(_extracted(train))
  )
  found |= _suppression_gap(test)
  if test.task.teacher is not None:
    found['teacher_smoothing'] = _teacher_smoothing(train)
  history = test.workdir.metrics()
  curves |= _training(history)
  path = [v for v in curves['nc1'] if v is not None and v > 0]
  if path:
    found['nc1_path'] = float(np.log10(path).mean())
  if 'corruptions' in study.extras:
    found |= _corrupted(test)
  if 'information' in study.extras and train.task.train_transform.random:
    curves['information'] = _information(train)
    found['information'] = curves['information']['cross_fitted'][-1]
  if study.transfer is not None:
    of = study.transfer
    (moved,) = transfer.transfer(
      [workdir],
      of.dataset,
      train_split=of.train_split,
      test_split=of.test_split,
      image_size=of.image_size,
      channels=of.channels,
      data_dir=data_dir,
      strengths=of.strengths or STRENGTHS,
    )
    found['transfer'] = moved.probe.accuracy
    found['transfer_neighbours'] = moved.neighbours
  return {n: v for n, v in found.items() if math.isfinite(v)}, curves


def of_translation(loaded: LoadedRun) -> tuple[dict[str, float], Record]:
  """What next tokens and translations of the evaluation split tell.

  There is no BLEU where sacreBLEU is not installed. Nothing is extracted.
  """
  fit = translating.fit_temperature(loaded)
  tokens, T = fit.tokens, fit.temperature
  ranking = selective.Ranking(tokens.log_odds, ~tokens.correct).curve()
  train = translating.tokens(loaded, [1.0], train=True)
  reliability = tokens.reliability()
  found = {
    'accuracy': float(tokens.correct.mean()),
    'train_accuracy': float(train.correct.mean()),
    'nll': float(tokens.nll[0].mean()),
    'ece': calibration.calibration_error(reliability),
    'ece_scaled': fit.ece_scaled,
    'nll_scaled': fit.nll_scaled,
    'log_temperature': math.nan if T is None else math.log(T),
    'aurc': selective.aurc(ranking),
    'naurc': selective.naurc(ranking),
  }
  history = loaded.workdir.metrics()
  last = _last_evaluation(history)
  found |= {n: last[n] for n in OF_TRUTH if n in last}
  pairs = loaded.task.eval_pairs
  translations = translating.Translator(loaded)(pairs.sources)
  score = translating.score(translations, pairs.targets)
  found['length_ratio'] = score.length_ratio
  curves = _drawn(reliability, ranking) | _training(history)
  if score.bleu is not None:
    found['bleu'], curves['signature'] = score.bleu, score.signature
  if (valid := translating.valid_share(translations, pairs)) is not None:
    found['valid'] = valid
  return {n: v for n, v in found.items() if math.isfinite(v)}, curves


# Of all pixels; what needs their logits is of a sample.
_OF_ALL_PIXELS = (
  *('miou', 'macc', 'accuracy', 'boundary_accuracy', 'interior_accuracy'),
  *('nll', 'ece'),
)


def of_segmentation(loaded: LoadedRun) -> tuple[dict[str, float], Record]:
  """What the last evaluation and a sample of its pixels tell.

  The sample is that of `extraction.extract`, the same pixels for every run.
  """
  found, curves = of_outputs(outputs.read(_extracted(loaded)))
  history = loaded.workdir.metrics()
  last = _last_evaluation(history)
  found |= {n: last[n] for n in _OF_ALL_PIXELS} | _suppression_gap(loaded)
  curves |= _training(history)
  return {n: v for n, v in found.items() if math.isfinite(v)}, curves


def _last_evaluation(history: list[Record]) -> Record:
  last = [r for r in history if r['kind'] == 'eval' and r['weights'] == 'raw']
  return last[-1]


def of_outputs(
  test: Outputs, train: Outputs | None = None
) -> tuple[dict[str, float], Record]:
  """What outputs tell: numbers, and curves.

  Args:
    test: of the evaluation split, logits and labels; with groups, temperatures
      and norms are fitted on half of these.
    train: of the training split, features and weights, too; None leaves out
      what needs these.
  """
  z, y = test.logits, test.labels
  examples = calibration.per_example(z, y)
  reliability = calibration.reliability_curve(
    examples.confidence, examples.correct, bins=BINS
  )
  ranking = selective.Ranking(
    selective.scores(z, ('msp',))['msp'], _wrong(test)
  )
  curve = ranking.curve()
  scaling = calibration.temperature_scaling(z, y, bins=BINS, groups=test.groups)
  fit = scaling.fit
  found = {
    'accuracy': float(examples.correct.mean()),
    'nll': float(examples.nll.mean()),
    'brier': float(examples.brier.mean()),
    'ece': calibration.calibration_error(reliability),
    'ece_scaled': scaling.after.expected_calibration_error,
    'nll_scaled': scaling.after.negative_log_likelihood,
    # At a bound there is no best temperature.
    'log_temperature': math.nan if fit.bound else math.log(fit.temperature),
    'aurc': selective.aurc(curve),
    'augrc': selective.augrc(curve),
    'naurc': selective.naurc(curve),
    'auroc': selective.auroc(curve),
    'pnorm_gain': _pnorm_gain(test, scaling.fit_examples),
    'top_logit': float((z.max(1) - z.mean(1, dtype=np.float64)).mean()),
    'near_zero': float(representation.near_zero_share(z).mean()),
    'top_logit_gap': _top_logit_gap(test),
  }
  if train is not None:
    found['train_accuracy'] = float(1 - _wrong(train).mean())
    found |= _of_features(train)
  return found, _drawn(reliability, curve)


def _drawn(
  reliability: calibration.ReliabilityCurve, curve: selective.RiskCoverage
) -> Record:
  """The curves of a split, as figures need them."""
  at = np.ceil(_COVERAGES * len(curve)).astype(int) - 1
  return {
    'reliability': {
      'confidence': reliability.confidence.tolist(),
      'accuracy': reliability.accuracy.tolist(),
      'count': reliability.count.tolist(),
    },
    'risk_coverage': {
      'coverage': _COVERAGES.tolist(),
      'risk': curve.risk[at].tolist(),
    },
  }


def _wrong(of: Outputs) -> np.ndarray:
  return selective.errors(of.logits, of.labels)


def _of_features(train: Outputs) -> dict[str, float]:
  """Geometry of the penultimate features of the training split."""
  if train.features is None:
    return {}
  variation = representation.cosine_variation(
    train.features, train.labels, train.num_classes
  )
  found = {'within': variation.within, 'r_squared': variation.r_squared}
  if train.weights is None:
    return found
  collapse = neural_collapse.neural_collapse(
    train.features, train.labels, train.weights, bias=train.bias
  )
  found |= {n: getattr(collapse, n) for n in ('nc1', 'nc2', 'nc3', 'h_norm')}
  if train.num_classes >= 3 and train.linear:
    found['cluster_spread'] = cluster_spread(
      train.features, train.labels, train.weights, train.bias
    )
  return found


def cluster_spread(
  features: np.ndarray,
  labels: np.ndarray,
  weights: np.ndarray,
  bias: np.ndarray | None,
  classes: tuple[int, int, int] = (0, 1, 2),
) -> float:
  """How wide the clusters of three classes are, in the plane of Müller et al.

  The root mean square distance from the class mean in the plane through the
  three templates, over the mean distance between the class means: what their
  Figure 1 shows, without a scale.
  """
  plane = projection.template_plane(weights, classes, bias=bias)
  points = [plane.project(features[labels == k]) for k in classes]
  means = np.stack([p.mean(0) for p in points])
  squares = [np.square(p - m).sum(1).mean() for p, m in zip(points, means)]
  apart = [np.linalg.norm(means[i] - means[i - 1]) for i in range(3)]
  return float(np.sqrt(np.mean(squares)) / np.mean(apart))


def _pnorm_gain(test: Outputs, fitted: np.ndarray) -> float:
  """AURC of the MSP less that of the p-norm, on what was not fitted."""
  if test.num_classes < 3:
    return math.nan
  others = np.ones(test.num_examples, bool)
  others[fitted] = False
  fit = selective.fit_pnorm(test.logits[fitted], test.labels[fitted])
  z, wrong = test.logits[others], _wrong(test)[others]
  msp, norm = (
    selective.aurc(selective.risk_coverage(s, wrong))
    for s in (selective.scores(z, ('msp',))['msp'], fit.score(z))
  )
  return msp - norm


def _top_logit_gap(test: Outputs) -> float:
  """The top logit of correct less that of wrong ones of equal confidence."""
  centred = test.logits - test.logits.mean(1, keepdims=True, dtype=np.float64)
  # Windows that do not overlap.
  profile = selective.max_logit_given_confidence(
    centred, test.labels, width=0.05, step=0.05
  )
  right, wrong = profile.correct, profile.wrong
  both = (right.count > 1) & (wrong.count > 1)
  if not both.any():
    return math.nan
  # Each window counts as much as its smaller group is sure of.
  sizes = 1 / (1 / right.count[both] + 1 / wrong.count[both])
  gap = np.average((right.mean - wrong.mean)[both], weights=sizes)
  return float(gap / centred.max(1).std())


def _suppression_gap(loaded: LoadedRun) -> dict[str, float]:
  """What the objective adds to the gradient on the top logit, by correctness.

  Only of objectives of logits and labels alone, at the strength of the end.
  """
  test = outputs.read(_extracted(loaded))
  wrong = _wrong(test)
  taught = getattr(loaded.task, 'teacher', None) is not None
  if taught or wrong.all() or not wrong.any():
    return {}
  objective = loaded.task.objective
  state, step = objective.init(), jnp.int32(loaded.step)
  if jax.tree.leaves(state):  # What it adds depends on the examples before.
    return {}

  def per_example(z: jax.Array, y: jax.Array) -> jax.Array:
    return objective.apply(state, z, y, step=step)[0]

  added = selective.suppression(per_example, test.logits, test.labels)
  gap = float(added[~wrong].mean() - added[wrong].mean())
  return {'suppression_gap': gap}


def _teacher_smoothing(train: LoadedRun) -> float:
  """γ of the teacher's targets on the training split, not augmented."""
  task: Any = train.task
  logits = jax.jit(
    lambda variables, images: task.teacher.logits(
      variables, task.normalize(images)
    )
  )
  config = train.run.config.objective
  parts = []
  for batch in task.eval_batches():
    z = np.asarray(logits(task.teacher.variables, batch['image']))
    parts.append(
      representation.effective_smoothing(
        z[batch['mask']],
        batch['label'][batch['mask']],
        config.get('teacher_temperature', 1.0),
      )
    )
  return float(np.concatenate(parts).mean())


def _training(history: list[Record]) -> Record:
  """Curves over epochs, from the lines of `metrics.jsonl`."""
  evals = [r for r in history if r['kind'] == 'eval' and r['weights'] == 'raw']
  measured = [
    r
    for r in history
    if r['kind'] == 'diagnostics' and r['split'].startswith('train')
  ]
  names = ('epoch', 'accuracy', 'nll', 'ece')
  curves: Record = {'eval': {n: [r.get(n) for r in evals] for n in names}}
  curves['measured_epoch'] = [r['epoch'] for r in measured]
  for name in ('nc1', 'nc2', 'nc3'):
    curves[name] = [r.get(name) for r in measured]
  return curves


def _corrupted(loaded: LoadedRun) -> dict[str, float]:
  """Error and ECE, means over the corruptions of `data.corruption`."""
  from maxsup_jax.data.corruption import CORRUPTIONS, SEVERITIES

  devices, task = loaded.run.devices, loaded.task
  step = devices.map(loaded.run.eval_step())
  state = devices.replicate(loaded.state)
  values = []
  for kind in CORRUPTIONS:
    for severity in SEVERITIES:
      source = data.CorruptedSource(
        task.eval_source, kind, severity, limit=_CORRUPTED_EXAMPLES
      )
      sums = evaluate(step, state, task.eval_batches(source), devices)
      report = task.report(sums)
      values.append((1 - report['accuracy'], report['ece']))
  error, ece = np.mean(values, 0).tolist()
  return {'corrupted_error': error, 'corrupted_ece': ece}


def _information(train: LoadedRun) -> Record:
  """Mutual information at the checkpoints that every run of a kind has."""
  task, devices = train.task, train.run.devices
  labels = data.sources.all_labels(task.eval_source)
  indices = [np.flatnonzero(labels == k)[:_PER_CLASS] for k in _PAIR]
  if not all(map(len, indices)):
    raise UsageError(
      f'{task.eval_source.name} lacks class {_PAIR[0]} or {_PAIR[1]}'
    )
  # The same views at every checkpoint.
  views = data.AugmentedSource(
    task.eval_source,
    np.concatenate(indices).tolist(),
    _VIEWS,
    task.train_transform,
    seed=train.run.config.seed,
  )
  apply = devices.map(task.extract_step())
  batches = list(task.eval_batches(views, transform=data.parse_transform('')))
  found: Record = {'epoch': [], 'in_sample': [], 'cross_fitted': []}
  with Checkpoints(train.workdir.checkpoints) as checkpoints:
    every, last = train.run.checkpoint_every, train.run.total_steps
    # Not what a run saved because it was stopped.
    steps = [s for s in checkpoints.steps() if s % every == 0 or s == last]
    for step in steps:
      state, _ = checkpoints.restore(step, train.run.shapes)
      variables = devices.replicate(state.variables(ema=False))
      parts = extraction.outputs(apply, variables, batches, devices)
      z = np.concatenate([part['logits'] for part in parts])
      z = z.reshape(-1, _VIEWS, z.shape[-1])
      result = mutual_information(class_logit_difference(z, *_PAIR))
      found['epoch'].append(step / train.run.steps_per_epoch)
      found['in_sample'].append(result.in_sample)
      found['cross_fitted'].append(result.cross_fitted)
  return found


def _extracted(loaded: LoadedRun) -> Path:
  """The outputs of a split, written unless they are there."""
  path = extraction.default_path(loaded)
  if not path.exists():
    extraction.extract(loaded)
  return path
