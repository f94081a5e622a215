"""Whether seeds agree with a claim."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maxsup_jax import errors
from maxsup_jax.diagnostics.seeds import holm, paired_difference
from maxsup_jax.studies.claims import Claim

HOLDS, REVERSED, UNRESOLVED = 'holds', 'reversed', 'not resolved'
DIFFERS, MISSING = 'differs', 'not measured'
LEVEL = 0.95
# With fewer seeds a verdict is given, with a warning beside it.
FEW_SEEDS = 5


def judge(
  claims: Sequence[Claim],
  values: Mapping[str, Mapping[int, Mapping[str, float | None]]],
) -> list[dict[str, Any]]:
  """Computes the verdicts of claims from the measures of runs.

  The difference is that of the variant and the baseline, paired by seed, with
  Student's 95% interval. P-values are corrected over all claims by Holm's
  method. A claim *holds* if the corrected p-value is below 5% and the sign is
  the expected one, and is *reversed* if it is the other; a question *differs*.
  A claim that two things are equal holds if the interval lies within the
  margin, and is reversed if it lies outside; its p-value has no part. All else
  is *not resolved*, beside the smallest effect that so many seeds would find.

  Args:
    claims: with names of their own.
    values: of each variant, the measures of each seed.

  Returns:
    A record of each claim: its fields, `seeds`, `difference`, `interval`,
    `p_value`, `corrected`, `detectable` and `verdict`. Without two seeds that
    both variants have, numbers are None, and it is not measured.
  """
  errors.distinct('claims', [c.name for c in claims])
  records, p_values = [], {}
  for claim in claims:
    record = {**dataclasses.asdict(claim), 'corrected': None}
    a, b = (values.get(n, {}) for n in (claim.variant, claim.baseline))
    seeds = [
      s
      for s in sorted(set(a) & set(b))
      if all(_counts(claim, of[s]) for of in (a, b))
    ]
    record['seeds'] = seeds
    if len(seeds) < 2:
      fields = ('difference', 'std', 'interval', 'p_value', 'detectable')
      record |= dict.fromkeys(fields) | {'verdict': MISSING}
    else:
      pairs = np.array(
        [[x[s][claim.measure] for s in seeds] for x in (a, b)], np.float64
      )
      found = paired_difference(pairs[0], pairs[1], LEVEL)
      record |= {
        'difference': found.mean,
        'std': found.std,
        'interval': list(found.interval),
        'p_value': found.p_value,
        'detectable': found.detectable,
      }
      if claim.sign != '=':
        p_values[claim.name] = found.p_value
    records.append(record)
  corrected = holm(p_values)
  for record in records:
    if record['difference'] is not None:
      record['corrected'] = corrected.get(record['name'])
      record['verdict'] = _verdict(record)
  return records


def _counts(claim: Claim, measures: Mapping[str, float | None]) -> bool:
  value = measures.get(claim.measure)
  defined = value is not None and math.isfinite(value)
  return defined and (
    not claim.interpolated or measures.get('train_accuracy') == 1
  )


def _verdict(record: Mapping[str, Any]) -> str:
  low, high = record['interval']
  sign, margin = record['sign'], record['margin']
  if sign == '=':
    if -margin <= low and high <= margin:
      return HOLDS
    return REVERSED if low > margin or high < -margin else UNRESOLVED
  if record['corrected'] >= 1 - LEVEL:
    return UNRESOLVED
  if sign == '?':
    return DIFFERS
  return HOLDS if (record['difference'] > 0) == (sign == '+') else REVERSED
