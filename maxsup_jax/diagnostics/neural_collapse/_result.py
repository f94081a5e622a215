"""The measures of neural collapse, under every name that the field has."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NeuralCollapse:
  r"""How far the features and the classifier have collapsed.

  Notation: :math:`\bar h_k` the class means, :math:`h_G` the global mean,
  :math:`\bar H = [\bar h_k - h_G]_k` (`[D, K]`), :math:`W = [w_k]_k` (`[D,
  K]`), :math:`\Sigma_k` the covariance of class k, :math:`\Sigma_W =
  \frac{1}{N} \sum_k n_k \Sigma_k`, :math:`\Sigma_B = \frac{1}{K} \bar H \bar
  H^T`, and :math:`E = (I - 11^T/K) / \sqrt{K - 1}`, the Gram matrix of a
  simplex ETF of norm 1. :math:`A \sim B` stands for :math:`\|A / \|A\|_F - B /
  \|B\|_F\|_F`, from 0 to 2. At full collapse all is 0 but the norms,
  `trace_between` and `ncc_accuracy`.

  What needs weights, bias or predictions that were not given is None. NaN is
  what does not exist: with :math:`\bar H = 0` (all class means equal, the
  trivial collapse) everything that divides by it; with :math:`W = 0` likewise;
  `nc1_correct` and `nc1_wrong` without such examples; the measures of a class
  without examples in the second pass.

  "Guo" is the paper of label smoothing and neural collapse, "Papyan" that of
  Papyan, Han and Donoho with its notebook, "Zhu" and "Zhou" those of Zhu et
  al. (2021) and Zhou et al. (2022).

  Attributes:
    num_samples: N, the examples of the second pass.
    num_classes: K, the classes that take part: all, or for `group_by=
      'predictions'` those that were predicted at least once.
    num_dropped: classes that were never predicted, and are left out of
      everything here, the rows of the weights included.
    num_features: D.
    rank: how many directions the class means span: K - 1, or less; the
      pseudo-inverse is that of this rank.
    classes: the ids of the classes that take part, `[K]`.
    counts: their examples, `[K]`.
    nc1: :math:`\frac{1}{K} \mathrm{tr}(\Sigma_W \Sigma_B^+)`. NC1 of Guo, Zhu
      and Zhou.
    nc1_unnormalized: the same without :math:`1/K`. NC1 in Guo's code and in
      Papyan's notebook.
    nc1_per_class: :math:`\frac{1}{K} \mathrm{tr}(\Sigma_k \Sigma_B^+)`, `[K]`;
      their mean, weighted by `counts`, is `nc1`. Guo's code has it times K.
    nc1_correct: `nc1` of the correct predictions alone, about the same class
      means, with the same :math:`\Sigma_B`. With `group_by='predictions'` NC1
      of correct predictions in Guo's figures.
    nc1_wrong: the same of the wrong ones.
    num_correct: how many predictions are correct.
    num_wrong: how many are wrong.
    trace_ratio: :math:`\mathrm{tr} \Sigma_W / \mathrm{tr} \Sigma_B`. Often
      used in place of NC1; needs no pseudo-inverse.
    trace_within: :math:`\mathrm{tr} \Sigma_W`.
    trace_between: :math:`\mathrm{tr} \Sigma_B`.
    var_cls: :math:`\mathrm{tr} \Sigma_k` over the square of `h_norm`, `[K]`.
      In Guo's code.
    cdnv: the class-distance normalised variance :math:`(\mathrm{tr} \Sigma_i +
      \mathrm{tr} \Sigma_j) / (2 \|\bar h_i - \bar h_j\|^2)`, the mean over all
      pairs (Galanti et al., 2022); infinite where two class means are equal,
      and NaN where the examples of both are equal, too.
    nc2: :math:`W^T \bar H \sim E`. NC2 of Guo; NC3 of Zhu, "self-duality".
    nc2_centered: the same with the weights centred over the classes. NC3 of
      Zhou.
    nc2h: :math:`\bar H^T \bar H \sim E`. Also called the ETF error.
    nc2w: :math:`W^T W \sim E`, not centred. NC2 of Zhu.
    nc2w_centered: the same with centred weights. NC2 of Zhou.
    nc3: :math:`W \sim \bar H`. NC3 of Guo.
    nc3_squared: its square. NC3 of Papyan, and in Guo's code.
    residual: :math:`\|W^T h_G + b\|_2`. NC4 of Zhu.
    equinorm_h: standard deviation over mean of :math:`\|\bar h_k - h_G\|`, with
      the denominator K - 1. NC2 of Papyan, for the features.
    equinorm_h_population: the same with the denominator K.
    equinorm_w: of :math:`\|w_k\|`, with the denominator K - 1. NC2 of Papyan,
      for the classifier; not centred.
    equinorm_w_population: the same with the denominator K.
    equiangularity_h: mean over all pairs of :math:`|\cos(\bar h_i - h_G, \bar
      h_j - h_G) + 1/(K - 1)|`. NC2 of Papyan, for the features.
    equiangularity_w: the same of :math:`w_i, w_j`, not centred.
    cosine_std_h: standard deviation over all pairs of the cosine of the class
      means: 0 where all angles are equal, whatever they are.
    cosine_std_w: the same of the weights.
    w_norm: the mean :math:`\|w_k\|`.
    h_norm: the mean :math:`\|\bar h_k - h_G\|`.
    ncc_accuracy: how often the nearest class mean is that of the label. In
      Guo's code.
    ncc_mismatch: how often the nearest class mean is not that of the class
      that the network predicts, bias included. NC4 of Papyan.
  """

  num_samples: int
  num_classes: int
  num_dropped: int
  num_features: int
  rank: int
  classes: np.ndarray
  counts: np.ndarray
  nc1: float
  nc1_unnormalized: float
  nc1_per_class: np.ndarray
  nc1_correct: float | None
  nc1_wrong: float | None
  num_correct: int | None
  num_wrong: int | None
  trace_ratio: float
  trace_within: float
  trace_between: float
  var_cls: np.ndarray
  cdnv: float
  nc2: float | None
  nc2_centered: float | None
  nc2h: float
  nc2w: float | None
  nc2w_centered: float | None
  nc3: float | None
  nc3_squared: float | None
  residual: float | None
  equinorm_h: float
  equinorm_h_population: float
  equinorm_w: float | None
  equinorm_w_population: float | None
  equiangularity_h: float
  equiangularity_w: float | None
  cosine_std_h: float
  cosine_std_w: float | None
  w_norm: float | None
  h_norm: float
  ncc_accuracy: float
  ncc_mismatch: float | None
