"""Penultimate features of three classes, projected onto a plane."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from maxsup_jax.diagnostics import _blocks, checks
from maxsup_jax.errors import UsageError

# Three points whose distance from a line, or from each other, is smaller than
# this share of their size span no plane that means anything.
_FLAT = 1e-6
_EQUAL = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class Plane:
  """A plane in the space of the features, with axes and an origin.

  Attributes:
    basis: float64 `[D, 2]`, or `[D + 1, 2]` with `with_bias`; orthonormal
      columns: the directions to the right and up.
    origin: float64, `[D]` or `[D + 1]`: the point that becomes (0, 0).
    classes: the three class ids that define the plane.
    templates_2d: float64 `[3, 2]`: where the points that define the plane lie
      in it, in the order of `classes`: the templates of `template_plane`, or
      the class means of `class_mean_plane`.
    with_bias: whether features have a 1 appended before they are projected.
  """

  basis: np.ndarray
  origin: np.ndarray
  classes: tuple[int, int, int]
  templates_2d: np.ndarray
  with_bias: bool

  def project(self, features: ArrayLike) -> np.ndarray:
    """Projects features of any examples: float64 `[N, 2]`, right and up."""
    features = checks.matrix(features, 'features')
    D = len(self.basis) - self.with_bias
    if features.shape[1] != D:
      raise checks.wrong_shape(
        'features',
        features,
        f'[examples, {D}], the number of features of the plane',
      )
    # The appended 1 adds the last row of the basis to every point.
    shift = self.basis[D:].sum(0) - self.origin @ self.basis
    return _blocks.map_rows(lambda x: x @ self.basis[:D] + shift, features)

  def upright(self) -> 'Plane':
    """The same plane and origin, turned so that pictures can be compared.

    The first class lies straight above the middle of the other two, and the
    second class to the left of the third.

    Examples:
      >>> features = np.array([[4.0, 0, 0], [-2, 1, 0], [-2, -1, 0]])
      >>> plane = class_mean_plane(features, np.array([0, 1, 2]), (0, 1, 2))
      >>> (plane.upright().templates_2d.round(3) + 0.0).tolist()
      [[0.0, 4.0], [-1.0, -2.0], [1.0, -2.0]]
    """
    a, b, c = self.templates_2d
    up = a - (b + c) / 2
    up = _unit(up)
    right = np.array([up[1], -up[0]])
    # Two axes can be mirrored, too.
    right = right * np.sign((c - b) @ right)
    turn = np.column_stack([right, up])
    return dataclasses.replace(
      self, basis=self.basis @ turn, templates_2d=self.templates_2d @ turn
    )


def template_plane(
  weights: ArrayLike, classes: Sequence[int], *, bias: ArrayLike | None = None
) -> Plane:
  r"""The plane through the templates of three classes.

  **The paper's own reading needs** `bias`: it defines a template as the weights
  *and* the bias of a class, for features with a 1 appended, so that the plane
  lies in D + 1 dimensions. For the templates of the classes `a`, `b`, `c`:

  .. math::
    e_1 = \frac{w_c - w_b}{\|w_c - w_b\|}, \qquad
    e_2 = \frac{v - (v^\top e_1)\, e_1}{\|v - (v^\top e_1)\, e_1\|}, \quad
    v = w_a - w_b

  so `a` is up, `b` at the lower left and `c` at the lower right, at one height.
  A projection onto it keeps the differences of the three logits exactly.

  Args:
    weights: floating point `[K, D]`, a row for each class (the transpose of
      the kernel of a Flax `Dense` layer).
    classes: the ids of the classes `a`, `b` and `c`, all different.
    bias: floating point `[K]`, as in the paper; None leaves it out.

  Examples:
    >>> plane = template_plane(np.eye(3), (0, 1, 2))
    >>> plane.project(np.eye(3)).round(3) + 0.0
    array([[ 0.   ,  0.816],
           [-0.707, -0.408],
           [ 0.707, -0.408]])

  References: Müller et al., 2019, Section 2, Figure 1.
  """
  weights = checks.matrix(weights, 'weights').astype(np.float64)
  classes = _three(classes, len(weights))
  templates = weights[list(classes)]
  if bias is not None:
    bias = checks.finite(bias, 'bias').astype(np.float64)
    if bias.shape != (len(weights),):
      raise checks.wrong_shape(
        'bias', bias, f'[{len(weights)}], one number for each row of weights'
      )
    templates = np.column_stack([templates, bias[list(classes)]])
  _check_span(templates, 'templates', classes)
  a, b, c = templates
  e1 = _unit(c - b)
  # Orthogonalised twice: once leaves an error where the triangle is flat.
  e2 = _unit(a - b)
  for _ in range(2):
    e2 = _unit(e2 - (e2 @ e1) * e1)
  basis = np.column_stack([e1, e2])
  origin = np.zeros(len(basis))
  return Plane(basis, origin, classes, templates @ basis, bias is not None)


def class_mean_plane(
  features: ArrayLike, labels: ArrayLike, classes: Sequence[int]
) -> Plane:
  r"""The plane through the mean features of three classes.

  The basis is that of the first two singular vectors of the centred means,

  .. math::
    \begin{pmatrix} \mu_a - \bar\mu \\ \mu_b - \bar\mu \\ \mu_c - \bar\mu
    \end{pmatrix} = U S V^\top, \qquad B = (v_1, v_2)

  and the origin is the mean of the examples of the three classes. This is how
  the code behind the figures of the MaxSup paper draws them, though its text
  speaks of templates. It follows the data it is given: compare training and
  validation features on the plane of one of them.

  Singular vectors have no sign: here the first class lies on the positive side
  of both axes (the second class, on an axis where the first one lies at 0).

  Args:
    labels: class ids, integer `[N]`; examples of other classes are left out.
    classes: the ids of three different classes, each with an example.

  References: Zhou et al., 2025, Figures 1, 3 and 4.
  """
  features = checks.matrix(features, 'features')
  # Any other class may be among the labels, also one above these three.
  labels = checks.array(labels, 'labels')
  highest = labels.max(initial=0) if labels.dtype.kind in 'iu' else 0
  labels = checks.class_ids(labels, int(highest) + 1)
  checks.same_length(features=features, labels=labels)
  classes = _three(classes)
  missing = [k for k in classes if k not in labels]
  if missing:
    raise UsageError(f'there are no examples of class {missing[0]}')
  groups = [features[labels == k].astype(np.float64) for k in classes]
  means = np.stack([group.mean(0) for group in groups])
  _check_span(means, 'means', classes)
  basis = np.linalg.svd(means - means.mean(0))[2][:2].T
  at = (means - means.mean(0)) @ basis
  size = np.abs(at).max()
  for axis in range(2):
    sign = next(x for x in at[:, axis] if abs(x) > _FLAT * size)
    basis[:, axis] *= np.sign(sign)
  origin = np.concatenate(groups).mean(0)
  return Plane(basis, origin, classes, (means - origin) @ basis, False)


def _three(
  classes: Sequence[int], num_classes: int | None = None
) -> tuple[int, int, int]:
  """Checks three different class ids."""
  ids = checks.array(classes, 'classes')
  upper = np.iinfo(np.int64).max if num_classes is None else num_classes
  ids = checks.class_ids(ids, upper, 'classes').tolist()
  if len(ids) != 3 or len(set(ids)) != 3:
    raise UsageError(f'classes is {ids}; expected three different class ids')
  return tuple(ids)


def _check_span(
  points: np.ndarray, name: str, classes: tuple[int, int, int]
) -> None:
  """Refuses three points on a line."""
  # The singular values of the differences do not depend on the order of them.
  spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
  size = np.abs(points).max()  # a norm may underflow
  # Points of one feature have a single singular value, and lie on a line.
  flat = len(spread) < 2 or spread[1] <= max(_FLAT * spread[0], _EQUAL * size)
  if flat:
    a, b, c = classes
    raise UsageError(
      f'the {name} of the classes {a}, {b} and {c} lie on a line or in a '
      'point; expected three that span a plane'
    )


def _unit(vector: np.ndarray) -> np.ndarray:
  vector = vector / np.abs(vector).max()  # or the squares may underflow
  return vector / np.linalg.norm(vector)
