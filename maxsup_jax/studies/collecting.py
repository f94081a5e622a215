"""What the runs of a study say together, from whatever is finished."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maxsup_jax import files
from maxsup_jax.studies import verdicts
from maxsup_jax.studies.measures import MEASURES
from maxsup_jax.studies.running import failures, measured
from maxsup_jax.studies.study import Run, Study
from maxsup_jax.training.config import fields

Record = dict[str, Any]
# Of the numbers in `study.json`, which people keep.
_DIGITS = 6
# Why a run is missing that did not fail.
NOT_RUN = 'not run yet'


def collect(study: Study, workdir: Path) -> Record:
  """Tables, curves and verdicts of a study.

  It depends on the measures of the runs alone: in how many parts, when and
  where they were run does not matter.

  Args:
    study: what was run.
    workdir: where.

  Returns:
    What `study.json` holds: plain data, that `reports.study` draws.
  """
  found: dict[Run, Record] = {}
  for run in study.runs():
    if (record := measured(study, run, workdir)) is not None:
      found[run] = record
  why = failures(workdir)
  missing = {
    run.name: why.get(run.name, NOT_RUN)
    for run in study.runs()
    if run not in found
  }
  values = {
    variant: {
      r.seed: found[r]['measures'] for r in found if r.variant == variant
    }
    for variant in study.variants
  }
  curves = {
    variant: _bands([found[r]['curves'] for r in found if r.variant == variant])
    for variant in study.variants
  }
  record = {
    'kind': 'study',
    'name': study.name,
    'title': study.title,
    'about': study.about,
    'seeds': list(study.seeds),
    'variants': {v: _differing(study, v) for v in study.variants},
    'missing': missing,
    'devices': sorted({r['device'] for r in found.values()}),
    'versions': _versions(found.values()),
    # How BLEU was computed, if it was.
    'signatures': sorted(
      {
        r['curves']['signature']
        for r in found.values()
        if 'signature' in r['curves']
      }
    ),
    'values': {
      v: {str(s): m for s, m in sorted(of.items())} for v, of in values.items()
    },
    'table': {v: _spread(list(of.values())) for v, of in values.items()},
    'claims': verdicts.judge(study.claims, values),
    'curves': curves,
  }
  return files.jsonable(record, _DIGITS)


def _differing(study: Study, variant: str) -> Record:
  """The fields in which a variant differs from the first one."""
  first, this = (
    fields(study.variants[v].to_dict())
    for v in (next(iter(study.variants)), variant)
  )
  names = [n for n in this if n.startswith('objective.')]
  names += [n for n in this if n not in names and this[n] != first.get(n)]
  return {n: this[n] for n in dict.fromkeys(names) if n != 'seed'}


def _versions(records: Iterable[Record]) -> dict[str, list[str]]:
  """Of each package the versions that runs were trained with."""
  found: dict[str, set[str]] = {}
  for record in records:
    for package, version in record['versions'].items():
      found.setdefault(package, set()).add(version)
  return {package: sorted(of) for package, of in sorted(found.items())}


def _spread(records: Sequence[Mapping[str, float | None]]) -> Record:
  """Mean, standard deviation and number of seeds of every measure."""
  table: Record = {}
  for name in MEASURES:
    of = [r[name] for r in records if r.get(name) is not None]
    if of:
      values = np.array(of, np.float64)
      std = float(values.std(ddof=1)) if len(values) > 1 else None
      table[name] = {'mean': float(values.mean()), 'std': std, 'seeds': len(of)}
  return table


def _bands(records: Sequence[Record]) -> Record:
  """Mean, least and largest value over seeds, at each point of each curve."""
  bands: Record = {}
  for name, path, x in (
    ('accuracy', ('eval', 'accuracy'), ('eval', 'epoch')),
    ('nll', ('eval', 'nll'), ('eval', 'epoch')),
    ('ece', ('eval', 'ece'), ('eval', 'epoch')),
    ('nc1', ('nc1',), ('measured_epoch',)),
    ('nc2', ('nc2',), ('measured_epoch',)),
    ('nc3', ('nc3',), ('measured_epoch',)),
    (
      'risk_coverage',
      ('risk_coverage', 'risk'),
      ('risk_coverage', 'coverage'),
    ),
    (
      'information',
      ('information', 'cross_fitted'),
      ('information', 'epoch'),
    ),
  ):
    pairs = [(_at(r, x), _at(r, path)) for r in records]
    rows = [(a, b) for a, b in pairs if a and b]
    # Those of the shape of the first: a seed may have been measured otherwise.
    same = [b for a, b in rows if a == rows[0][0] and len(b) == len(a)]
    if same:
      values = np.array(same, np.float64)  # None becomes NaN.
      bands[name] = {
        'x': rows[0][0],
        'mean': _over(np.mean, values),
        'low': _over(np.min, values),
        'high': _over(np.max, values),
      }
  if records:
    bands['reliability'] = _reliability([r['reliability'] for r in records])
  return bands


def _at(record: Record, path: Sequence[str]) -> list | None:
  found: Any = record
  for name in path:
    found = found.get(name) if isinstance(found, Mapping) else None
  return found


def _over(function: Any, values: np.ndarray) -> list[float]:
  """A statistic of the columns that are whole; NaN elsewhere."""
  return function(values, axis=0).tolist()


def _reliability(records: Sequence[Record]) -> Record:
  """Accuracy in the bins of all seeds: of all examples, and the range."""
  count, confidence, accuracy = (
    np.array([r[n] for r in records], np.float64)
    for n in ('count', 'confidence', 'accuracy')
  )
  total = count.sum(0)
  # An empty bin has no accuracy.
  some = total > 0
  pooled = [
    np.where(count > 0, count * values, 0).sum(0)[some] / total[some]
    for values in (confidence, accuracy)
  ]
  low = np.where(count > 0, accuracy, np.inf).min(0)[some]
  high = np.where(count > 0, accuracy, -np.inf).max(0)[some]
  return {
    'x': pooled[0].tolist(),
    'mean': pooled[1].tolist(),
    'low': low.tolist(),
    'high': high.tolist(),
    'count': total[some].tolist(),
  }
