"""What is not given, what is not defined, and what is refused."""

import numpy as np
import pytest

from maxsup_jax.diagnostics.neural_collapse import neural_collapse
from maxsup_jax.errors import UsageError

FEATURES = np.array(
  [
    [3, 0, 1, 0],
    [2, 1, 0, 0],
    [0, 3, 0, 1],
    [1, 2, 1, 0],
    [0, 0, 3, 2],
    [0, 1, 2, 1],
  ],
  np.float64,
)
LABELS = np.array([0, 0, 1, 1, 2, 2])
WEIGHTS = np.array([[1, 0, -0.5, 0], [-0.5, 1, 0, 0.25], [0, -0.5, 1, 0.5]])
BIAS = np.array([0.1, -0.2, 0.05])


def words(text):
  return text.split()


def test_what_was_not_given_is_none():
  without = neural_collapse(FEATURES, LABELS)
  assert {k for k, v in vars(without).items() if v is None} == {
    *words('nc2 nc2_centered nc2w nc2w_centered nc3 nc3_squared residual'),
    *words('equinorm_w equinorm_w_population equiangularity_w'),
    *words('cosine_std_w w_norm ncc_mismatch'),
    *words('nc1_correct nc1_wrong num_correct num_wrong'),
  }
  no_bias = neural_collapse(FEATURES, LABELS, WEIGHTS)
  assert no_bias.residual is None
  assert no_bias.ncc_mismatch is None
  assert no_bias.nc3 == pytest.approx(0.5359593453)


@pytest.mark.parametrize('value', [0.0, 0.1, 1e5])
def test_trivial_collapse_is_undefined(value):
  h = np.full((6, 4), value, np.float32)
  result = neural_collapse(h, LABELS, WEIGHTS, BIAS)
  undefined = words(
    'nc1 nc1_unnormalized nc1_per_class nc1_correct trace_ratio var_cls cdnv '
    'nc2 nc2_centered nc2h nc3 nc3_squared equinorm_h equiangularity_h'
  )
  for name in undefined:
    assert np.isnan(getattr(result, name)).all(), name
  assert result.rank == 0
  assert result.h_norm == 0
  assert result.nc2w == pytest.approx(0.1908796210)


def test_trivial_collapse_up_to_rounding():
  """The mean of seven times 0.1 is not 0.1."""
  y = np.repeat([0, 1, 2], [3, 7, 6])
  h = np.full((16, 4), 0.1)
  assert len({float(sum(h[y == k, 0]) / sum(y == k)) for k in range(3)}) > 1
  result = neural_collapse(h, y)
  assert result.rank == 0
  assert np.isnan([result.nc1, result.nc2h, result.cdnv]).all()
  assert result.h_norm == 0


def test_zero_weights_are_undefined_where_they_divide():
  result = neural_collapse(FEATURES, LABELS, 0 * WEIGHTS, BIAS)
  for name in ('nc2', 'nc2w', 'nc2_centered', 'nc3', 'equinorm_w'):
    assert np.isnan(getattr(result, name)), name
  assert result.w_norm == 0
  assert result.nc2h == pytest.approx(0.2505023779)


def test_equal_class_means_are_infinitely_close():
  h = np.array([[1.0, 0], [3, 0], [1, 0], [3, 0], [0, 4], [0, 4]])
  assert neural_collapse(h, LABELS).cdnv == np.inf


def test_one_predicted_class_is_undefined():
  logits = np.tile([1.0, 0, 0], (6, 1))
  result = neural_collapse(
    FEATURES, LABELS, logits=logits, group_by='predictions'
  )
  assert (result.num_classes, result.num_dropped) == (1, 2)
  assert np.isnan([result.nc1, result.nc2h, result.equinorm_h]).all()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'num_classes': 4}, 'class 3 has no examples'),
    ({'num_classes': 6}, 'classes 3, 4, 5 have no examples'),
    ({'num_classes': 12}, 'classes 3, 4, 5, 6, 7 and 4 more have no examples'),
    ({'num_classes': 2}, r'labels\[4\] is 2; expected from 0 to 1'),
    ({'labels': LABELS - 1}, r'labels\[0\] is -1'),
    ({'labels': 0 * LABELS}, 'there is 1 class; expected at least 2'),
    ({'labels': LABELS[:5]}, 'features 6, labels 5'),
    ({'labels': LABELS + 0.0}, 'labels has the dtype float64'),
    ({'labels': LABELS * np.nan}, 'labels has the dtype float64'),
    ({'labels': None}, r'labels has the shape \(\)'),
    ({'labels': list('aabbcc')}, 'labels has the dtype <U1'),
    ({'labels': [[0], [0, 1]]}, 'labels is no array: its rows differ'),
    ({'labels': LABELS * 10**11}, r'labels\[2\] is 100000000000; expected'),
    ({'labels': LABELS.astype('u8') * 2**62}, r'labels\[2\] is 4611'),
    ({'features': FEATURES * 1e-200}, 'largest of features is 3e-200'),
    ({'features': FEATURES * 1e149}, r'largest of features is 3e\+149'),
    ({'weights': WEIGHTS * 1e-200}, 'largest of weights is 1e-200 in size'),
    ({'weights': WEIGHTS[:2]}, r'weights has the shape \(2, 4\); .* up to 2'),
    ({'labels': LABELS[:0]}, 'labels is empty'),
    ({'features': FEATURES * np.nan}, r'features\[0, 0\] is nan'),
    ({'features': FEATURES[0]}, r'features has the shape \(4,\)'),
    ({'weights': WEIGHTS.T}, 'labels|classes differ|weights has the shape'),
    ({'weights': WEIGHTS[:, :2]}, r'weights has the shape \(3, 2\); expected'),
    ({'weights': WEIGHTS, 'bias': BIAS[:2]}, r'bias has the shape \(2,\)'),
    ({'bias': BIAS}, 'bias was given without weights'),
    ({'weights': WEIGHTS, 'num_classes': 4}, 'num_classes 4, weights 3'),
    ({'logits': np.zeros((5, 3))}, 'features 6, logits 5'),
    ({'group_by': 'predictions'}, 'needs logits, or weights and bias'),
    ({'group_by': 'class'}, "group_by is 'class'; expected one of labels"),
    ({'global_mean': 'mean'}, "global_mean is 'mean'; expected one of classes"),
  ],
)
def test_bad_input_is_one_line(arguments, message):
  with pytest.raises(UsageError, match=message) as error:
    neural_collapse(**{'features': FEATURES, 'labels': LABELS} | arguments)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('scale', [1e-59, 1e58])
def test_tiny_and_huge_features_and_weights(scale):
  expected = neural_collapse(FEATURES, LABELS, WEIGHTS)
  found = neural_collapse(scale * FEATURES, LABELS, scale * WEIGHTS)
  for name in words('nc1 nc2 nc2h nc2w nc3 trace_ratio cdnv equinorm_h'):
    assert getattr(found, name) == pytest.approx(getattr(expected, name)), name


def test_equal_class_means_without_variance_have_no_cdnv():
  h = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0], [0, 4], [0, 4]])
  result = neural_collapse(h, LABELS)
  assert np.isnan(result.cdnv)
  assert result.nc1 == 0


def test_near_class_means_keep_their_digits():
  """By the Gram matrix their distance would be 1% off."""
  h = np.array([[7.0, 0], [7, 0], [7, 1e-7], [7, 3e-7], [-7, 1], [-7, 1]])
  result = neural_collapse(h, LABELS)
  far = np.square(14) + 1
  # Of a variance of 1e-14, about means 2e-7 apart.
  expected = (1e-14 / (2 * 4e-14) + 1e-14 / (2 * far)) / 3
  assert result.cdnv == pytest.approx(expected, rel=1e-7)
