"""Losses and penalties on logits, and the objectives that training uses.

Every loss is a pure function in the manner of optax,
``f(logits, labels, alpha, *, axis=-1, where=None)``, and returns one value per
example: reduce as you see fit, or with `weighted_mean`. All of them

* take labels as integer class ids or, where the loss is defined for them, as
  distributions over the classes, and refuse these with a ValueError where it is
  not. Class ids are never made one-hot in memory;
* take a mask `where` of examples or of logits: a masked example has a loss and
  a gradient of exactly 0, whatever it holds; a masked class does not exist
  (mask a class rather than set its logit to -inf, which makes means and norms
  infinite);
* take weights of the classes, `class_weights`;
* compute in float32 or wider, and return that;
* are safe under `jit`, `vmap`, `pmap`, `grad` and `jvp`, and take a traced
  strength: one that changes over the training compiles once.

>>> import jax.numpy as jnp
>>> import numpy as np
>>> from maxsup_jax import losses
>>> logits = jnp.array([[2.0, 1.0, 0.1, -1.0], [0.5, 1.5, 1.0, -0.5]])
>>> labels = jnp.array([0, 2])
>>> loss = losses.maxsup_cross_entropy(logits, labels, 0.1)
>>> print(np.asarray(loss).round(4))
[0.5968 1.3341]

The penalty stands alone, for a loss of your own:

>>> print(losses.max_suppression(logits))
[1.475 0.875]

An `Objective` joins a loss to its schedule and, where it has one, its state;
`make_objective` makes one from a configuration.

This package needs jax and numpy only.
"""

from maxsup_jax.losses._acls import (
  acls_cross_entropy,
  acls_objective,
  acls_penalty,
)
from maxsup_jax.losses._adaptive_smoothing import (
  adaptive_ls_objective,
  adaptive_smoothing_cross_entropy,
  prior_smoothing_cross_entropy,
)
from maxsup_jax.losses._class_weights import with_class_weights
from maxsup_jax.losses._confidence_alpha import confidence_alpha
from maxsup_jax.losses._confidence_penalty import (
  confidence_penalty,
  confidence_penalty_cross_entropy,
  confidence_penalty_objective,
)
from maxsup_jax.losses._cross_entropy import ce_objective, cross_entropy
from maxsup_jax.losses._decomposition import (
  error_amplification,
  error_amplification_only_objective,
  regularization_only_objective,
  smoothing_regularization,
)
from maxsup_jax.losses._distillation import (
  distillation,
  distillation_cross_entropy,
  distillation_objective,
)
from maxsup_jax.losses._focal import focal_cross_entropy, focal_objective
from maxsup_jax.losses._label_smoothing import (
  label_smoothing_cross_entropy,
  ls_objective,
)
from maxsup_jax.losses._logit_matching import (
  logit_matching,
  logit_matching_cross_entropy,
  logit_matching_objective,
)
from maxsup_jax.losses._logit_norm import (
  logit_norm_cross_entropy,
  logit_norm_objective,
)
from maxsup_jax.losses._logit_penalty import (
  logit_penalty,
  logit_penalty_cross_entropy,
  logit_penalty_objective,
)
from maxsup_jax.losses._margin_smoothing import (
  margin_penalty,
  mbls_cross_entropy,
  mbls_objective,
)
from maxsup_jax.losses._max_suppression import (
  max_suppression,
  maxsup_cross_entropy,
  maxsup_objective,
)
from maxsup_jax.losses._objective import Objective
from maxsup_jax.losses._online_smoothing import (
  OnlineSmoothing,
  ols_cross_entropy,
  ols_end_of_epoch,
  ols_init,
  ols_objective,
  ols_update,
)
from maxsup_jax.losses._ranks import dense_votes, min_ranks
from maxsup_jax.losses._reduce import label_weights, weighted_mean
from maxsup_jax.losses._registry import OBJECTIVES, SCHEDULES, make_objective
from maxsup_jax.losses._schedules import (
  EpochSchedule,
  Schedule,
  constant_alpha,
  cosine_alpha,
  linear_alpha,
  piecewise_alpha,
)
from maxsup_jax.losses._zipf import (
  zipf_cross_entropy,
  zipf_distribution,
  zipf_objective,
  zipf_penalty,
)

__all__ = [
  'OBJECTIVES',
  'SCHEDULES',
  'EpochSchedule',
  'Objective',
  'OnlineSmoothing',
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
