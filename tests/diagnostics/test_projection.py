import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import linalg
from scipy.spatial import distance

from maxsup_jax.diagnostics.projection import class_mean_plane, template_plane
from maxsup_jax.errors import UsageError

CLASSES = (4, 0, 7)


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture(params=[False, True], ids=['no_bias', 'bias'])
def layer(request, rng):
  """A last layer: weights, and the bias or None."""
  return rng.normal(size=(9, 6)), rng.normal(size=9) if request.param else None


def simplex(K, D, rng):
  """K templates of equal norm and equal angles, about 0, in D dimensions."""
  corners = np.sqrt(K / (K - 1)) * (np.eye(K) - 1 / K)
  return corners @ linalg.qr(rng.normal(size=(D, K)), mode='economic')[0].T


def clusters(rng, n=40):
  """Features and labels of three classes, of different sizes, and a fourth."""
  labels = np.repeat([4, 0, 7, 2], [n, 2 * n, n // 2, n])
  means = rng.normal(scale=3, size=(8, 6))
  return means[labels] + rng.normal(size=(len(labels), 6)), labels


def test_keeps_the_differences_of_the_logits(rng, layer):
  weights, bias = layer
  features = rng.normal(size=(50, 6))
  plane = template_plane(weights, CLASSES, bias=bias)
  assert_allclose(plane.basis.T @ plane.basis, np.eye(2), atol=1e-14)
  logits = features @ weights.T + (0 if bias is None else bias)
  logits = logits[:, CLASSES]
  w = np.column_stack([weights] if bias is None else [weights, bias])
  w_2d = w[list(CLASSES)] @ plane.basis
  xy = plane.project(features)
  for i in range(3):
    for j in range(3):
      assert_allclose(
        xy @ (w_2d[i] - w_2d[j]), logits[:, i] - logits[:, j], atol=1e-12
      )


def test_a_simplex_is_a_regular_triangle_about_0(rng):
  templates = simplex(10, 32, rng)
  expected = np.array([[0, 2], [-np.sqrt(3), -1], [np.sqrt(3), -1]])
  plane = template_plane(templates, CLASSES)
  xy = plane.project(0.3 * templates[list(CLASSES)])
  heights = xy[:, 1]
  assert_allclose(heights / heights[0], [1, -0.5, -0.5])
  assert_allclose(xy, expected * heights[0] / 2, atol=1e-12)
  # All other classes are as far from one of the three as from another.
  assert_allclose(plane.project(templates)[1], 0, atol=1e-12)


def test_class_means_by_the_definition(rng):
  features, labels = clusters(rng)
  plane = class_mean_plane(features, labels, CLASSES)
  assert_allclose(plane.basis.T @ plane.basis, np.eye(2), atol=1e-14)
  means = np.stack([features[labels == k].mean(0) for k in CLASSES])
  # The principal axes of the three means: eigenvectors of their scatter.
  scatter = np.cov(means.T)
  values, vectors = np.linalg.eigh(scatter)
  for axis, vector in enumerate(vectors.T[np.argsort(-values)][:2]):
    assert_allclose(abs(vector @ plane.basis[:, axis]), 1)
  kept = np.isin(labels, CLASSES)
  xy = plane.project(features[kept])
  assert_allclose(xy.mean(0), 0, atol=1e-13)
  for i, k in enumerate(CLASSES):
    assert_allclose(
      xy[labels[kept] == k].mean(0), plane.templates_2d[i], atol=1e-12
    )
  assert not plane.with_bias
  # The plane contains the means: no distance between them is lost.
  assert_allclose(
    np.linalg.norm(np.diff(plane.templates_2d, axis=0), axis=1),
    np.linalg.norm(np.diff(means, axis=0), axis=1),
  )


def test_class_means_have_signs(rng):
  features, labels = clusters(rng)
  plane = class_mean_plane(features, labels, CLASSES)
  middle = plane.templates_2d.mean(0)
  assert (plane.templates_2d[0] > middle).all()
  order = rng.permutation(len(labels))
  shuffled = class_mean_plane(features[order], labels[order], CLASSES)
  assert_allclose(shuffled.basis, plane.basis, atol=1e-13)
  # Where the first class lies on an axis, the second one decides.
  means = np.array([[4.0, 0, 0], [-2, -1, 0], [-2, 1, 0]])
  for swap in (means, means[:, [0, 2, 1]]):
    plane = class_mean_plane(swap, np.arange(3), (0, 1, 2))
    assert_allclose(plane.templates_2d, [[4, 0], [-2, 1], [-2, -1]], atol=1e-15)


def test_what_is_refused(rng):
  features, labels = clusters(rng)
  corners, eye = (0, 1, 2), np.eye(3)
  # Means of equal features, equal but for rounding.
  tiled = np.tile(rng.normal(size=6), (20, 1))
  uneven = np.repeat([0, 1, 2], [3, 7, 10])
  line = np.outer([0.0, 1, 3], np.ones(5)) + 0.1
  means = class_mean_plane
  for call, message in (
    (lambda: template_plane(eye, (0, 1, 1)), 'three different'),
    (lambda: template_plane(eye, (0, 1, 3)), r'classes\[2\] is 3'),
    (lambda: template_plane(0 * eye, corners), 'lie on a line'),
    (lambda: template_plane(line, corners), 'lie on a line'),
    (lambda: template_plane(eye[:, :1], corners), 'lie on a line'),
    (lambda: template_plane(eye, corners, bias=eye[0, :2]), r'shape \(2,\)'),
    (lambda: template_plane(eye, corners).project(line), r'\[examples, 3\]'),
    (lambda: means(features, labels, (4, 0, 3)), 'no examples of class 3'),
    (lambda: means(features, labels[1:], CLASSES), 'of examples differ'),
    (lambda: means(features, -labels, CLASSES), r'labels\[0\] is -4'),
    (lambda: means(tiled, uneven, corners), 'means .* lie on a line'),
  ):
    with pytest.raises(UsageError, match=message):
      call()


@pytest.mark.parametrize('kind', ['templates', 'means'])
def test_upright_is_the_same_picture_turned(rng, kind):
  features, labels = clusters(rng)
  if kind == 'templates':
    plane = template_plane(rng.normal(size=(9, 6)), CLASSES)
  else:
    plane = class_mean_plane(features, labels, CLASSES)
  turned = plane.upright()
  before, after = plane.project(features), turned.project(features)
  assert_allclose(distance.pdist(before), distance.pdist(after), rtol=1e-9)
  a, b, c = turned.templates_2d
  middle = (b + c) / 2
  assert a[0] == pytest.approx(middle[0])
  assert a[1] > middle[1]
  assert b[0] < c[0]
  if kind == 'means':
    of_class = [after[labels == k].mean(0) for k in CLASSES]
    assert_allclose(of_class, turned.templates_2d, atol=1e-12)
  assert_allclose(turned.basis.T @ turned.basis, np.eye(2), atol=1e-12)


@pytest.mark.parametrize('scale', [1e-200, 1e149])
def test_tiny_and_huge_planes_are_those_of_unit_size(rng, scale):
  weights = rng.normal(size=(9, 6))
  features, labels = clusters(rng)
  for make in (
    lambda s: template_plane(s * weights, CLASSES),
    lambda s: class_mean_plane(s * features, labels, CLASSES),
  ):
    plane, expected = make(scale), make(1.0)
    for a, b in ((plane, expected), (plane.upright(), expected.upright())):
      assert_allclose(a.basis, b.basis, atol=1e-11)
      assert_allclose(a.templates_2d / scale, b.templates_2d, atol=1e-11)
