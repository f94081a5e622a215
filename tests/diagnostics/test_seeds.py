"""Differences over seeds, and corrected p-values."""

import numpy as np
import pytest
from scipy import stats

from maxsup_jax.diagnostics.seeds import holm, paired_difference
from maxsup_jax.errors import UsageError


def test_paired_difference_is_scipys():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 7))
  found = paired_difference(a, b, level=0.9)
  expected = stats.ttest_rel(a, b)
  interval = expected.confidence_interval(0.9)
  assert found.p_value == pytest.approx(expected.pvalue, rel=1e-12)
  np.testing.assert_allclose(found.interval, interval, rtol=1e-12)
  single = paired_difference(a - b, 0.3)
  assert single.p_value == pytest.approx(
    stats.ttest_1samp(a - b, 0.3).pvalue, rel=1e-12
  )


def test_interval_covers_and_detectable_is_found_as_often_as_they_say():
  rng = np.random.default_rng(1)
  for n in (3, 5, 10):
    covered = found = 0
    for _ in range(2000):
      d = rng.normal(0.4, 1.0, n)
      low, high = paired_difference(d).interval
      covered += low <= 0.4 <= high
      # The effect that known noise of 1 makes detectable.
      t = stats.t.ppf([0.975, 0.8], n - 1).sum() / np.sqrt(n)
      found += paired_difference(d - 0.4 + t).p_value < 0.05
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)
    assert found / 2000 == pytest.approx(0.8, abs=0.09), n


def test_detectable_grows_with_the_spread():
  d = np.array([0.1, 0.2, 0.3, 0.2])
  small, large = (paired_difference(s * d).detectable for s in (1, 10))
  assert large == pytest.approx(10 * small)


def test_equal_differences_have_no_spread():
  same = paired_difference([0.9, 0.7, 0.4], [0.8, 0.6, 0.3])
  assert (same.std, same.p_value, same.detectable) == (0.0, 0.0, 0.0)
  assert paired_difference([0.5, 0.6], [0.5, 0.6]).p_value == 1


@pytest.mark.parametrize(
  ('a', 'b'), [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([1.0, np.nan], 0.0)]
)
def test_what_is_no_pair_is_refused(a, b):
  with pytest.raises(UsageError):
    paired_difference(a, b)


def test_holm_rejects_what_the_step_down_procedure_does():
  rng = np.random.default_rng(2)
  for _ in range(20):
    p = dict(zip('abcdef', rng.uniform(0, 0.1, 6)))
    p['f'] = p['e']  # A tie.
    corrected = holm(p)
    for level in np.linspace(0.001, 0.5, 60):
      rejected = set()
      for rank, name in enumerate(sorted(p, key=p.get)):
        if p[name] > level / (len(p) - rank):
          break
        rejected.add(name)
      assert {n for n, c in corrected.items() if c <= level} == rejected
  assert list(corrected) == list(p)
  with pytest.raises(UsageError, match='p-value of a'):
    holm({'a': 1.5})
