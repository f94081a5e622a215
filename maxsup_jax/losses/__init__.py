"""Losses and penalties on logits, and the objectives that training uses.

Every loss is a pure function in the manner of optax,
``f(logits, labels, alpha, *, axis=-1, where=None)``, and returns one value per
example: reduce as you see fit, or with `weighted_mean`. `cross_entropy`
explains what all of them share: labels as class ids or distributions, the mask
`where` of examples or classes, weights of the classes, dtypes and errors. They
are safe under `jit`, `vmap`, `pmap`, `grad` and `jvp`, and a strength that
changes over the training compiles once. Mask a class rather than set its logit
to -inf, which makes means and norms infinite.

>>> import numpy as np
>>> from maxsup_jax import losses
>>> logits = np.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
>>> labels = np.array([0, 2])
>>> print(np.asarray(losses.maxsup_cross_entropy(logits, labels, 0.1)).round(4))
[0.5968 1.3341]

Where the logits of many classes do not fit into memory, the losses whose names
begin with ``linear_`` take the features and the kernel of the last layer.
`pixel_loss` is for the logits of images, at a lower resolution than the labels.

An `Objective` joins a loss to its schedule and, where it has one, its state;
`make_objective` makes one from a configuration.

This package needs jax and numpy only. Examples take ``jax.numpy as jnp`` and
the names of this package as imported. Papers are cited by authors and year;
docs/loss_reference.md lists them.
"""

from maxsup_jax.losses.focal import focal_cross_entropy
from maxsup_jax.losses.linear import (
  RowStatistics,
  linear_cross_entropy,
  linear_label_smoothing_cross_entropy,
  linear_max_suppression,
  linear_maxsup_cross_entropy,
  linear_statistics,
)
from maxsup_jax.losses.logit_norm import logit_norm_cross_entropy
from maxsup_jax.losses.maxsup import (
  error_amplification,
  max_suppression,
  maxsup_cross_entropy,
  smoothing_regularization,
)
from maxsup_jax.losses.objectives import (
  OBJECTIVES,
  SCHEDULES,
  Objective,
  make_objective,
  ols_objective,
  with_class_weights,
)
from maxsup_jax.losses.online_smoothing import (
  OnlineSmoothing,
  ols_cross_entropy,
  ols_end_of_epoch,
  ols_init,
  ols_update,
)
from maxsup_jax.losses.penalties import (
  acls_cross_entropy,
  acls_penalty,
  confidence_penalty,
  confidence_penalty_cross_entropy,
  logit_penalty,
  logit_penalty_cross_entropy,
  margin_penalty,
  mbls_cross_entropy,
)
from maxsup_jax.losses.pixels import PixelLosses, pixel_loss
from maxsup_jax.losses.reductions import label_weights, weighted_mean
from maxsup_jax.losses.smoothing import (
  adaptive_smoothing_cross_entropy,
  cross_entropy,
  label_smoothing_cross_entropy,
  prior_smoothing_cross_entropy,
)
from maxsup_jax.losses.strengths import (
  EpochSchedule,
  Schedule,
  confidence_alpha,
  constant_alpha,
  cosine_alpha,
  linear_alpha,
  piecewise_alpha,
)
from maxsup_jax.losses.teachers import (
  distillation,
  distillation_cross_entropy,
  logit_matching,
  logit_matching_cross_entropy,
)
from maxsup_jax.losses.zipf import (
  dense_votes,
  min_ranks,
  zipf_cross_entropy,
  zipf_distribution,
  zipf_penalty,
)

# The same under names of their own.
acls_objective = OBJECTIVES['acls']
adaptive_ls_objective = OBJECTIVES['adaptive_ls']
ce_objective = OBJECTIVES['ce']
confidence_penalty_objective = OBJECTIVES['confidence_penalty']
distillation_objective = OBJECTIVES['distillation']
error_amplification_only_objective = OBJECTIVES['error_amplification_only']
focal_objective = OBJECTIVES['focal']
logit_matching_objective = OBJECTIVES['logit_matching']
logit_norm_objective = OBJECTIVES['logit_norm']
logit_penalty_objective = OBJECTIVES['logit_penalty']
ls_objective = OBJECTIVES['ls']
maxsup_objective = OBJECTIVES['maxsup']
mbls_objective = OBJECTIVES['mbls']
regularization_only_objective = OBJECTIVES['regularization_only']
zipf_objective = OBJECTIVES['zipf']

__all__ = [
  'OBJECTIVES',
  'SCHEDULES',
  'EpochSchedule',
  'Objective',
  'OnlineSmoothing',
  'PixelLosses',
  'RowStatistics',
  'Schedule',
  'acls_cross_entropy',
  'acls_objective',
  'acls_penalty',
  'adaptive_ls_objective',
  'adaptive_smoothing_cross_entropy',
  'ce_objective',
  'confidence_alpha',
  'confidence_penalty',
  'confidence_penalty_cross_entropy',
  'confidence_penalty_objective',
  'constant_alpha',
  'cosine_alpha',
  'cross_entropy',
  'dense_votes',
  'distillation',
  'distillation_cross_entropy',
  'distillation_objective',
  'error_amplification',
  'error_amplification_only_objective',
  'focal_cross_entropy',
  'focal_objective',
  'label_smoothing_cross_entropy',
  'label_weights',
  'linear_alpha',
  'linear_cross_entropy',
  'linear_label_smoothing_cross_entropy',
  'linear_max_suppression',
  'linear_maxsup_cross_entropy',
  'linear_statistics',
  'logit_matching',
  'logit_matching_cross_entropy',
  'logit_matching_objective',
  'logit_norm_cross_entropy',
  'logit_norm_objective',
  'logit_penalty',
  'logit_penalty_cross_entropy',
  'logit_penalty_objective',
  'ls_objective',
  'make_objective',
  'margin_penalty',
  'max_suppression',
  'maxsup_cross_entropy',
  'maxsup_objective',
  'mbls_cross_entropy',
  'mbls_objective',
  'min_ranks',
  'ols_cross_entropy',
  'ols_end_of_epoch',
  'ols_init',
  'ols_objective',
  'ols_update',
  'piecewise_alpha',
  'pixel_loss',
  'prior_smoothing_cross_entropy',
  'regularization_only_objective',
  'smoothing_regularization',
  'weighted_mean',
  'with_class_weights',
  'zipf_cross_entropy',
  'zipf_distribution',
  'zipf_objective',
  'zipf_penalty',
]
