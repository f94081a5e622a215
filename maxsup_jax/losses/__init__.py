"""Losses and penalties on logits, and the objectives that training uses.

Every loss is a pure function in the manner of optax,
``f(logits, labels, alpha, *, axis=-1, where=None)``, and returns one value per
example: reduce as you see fit. All of them

* take labels as integer class ids or as distributions over the classes (the
  parts of label smoothing take class ids only), and never make class ids
  one-hot;
* take a mask `where` of examples or of logits: a masked example has a loss and
  a gradient of exactly 0, whatever it holds; a masked class does not exist
  (mask a class rather than set its logit to -inf, which makes means infinite);
* compute in float32 or wider, and return that;
* are safe under `jit`, `vmap`, `pmap`, `grad` and `jvp`, and take a traced
  `alpha`: a strength that changes over the training compiles once.

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

from maxsup_jax.losses._cross_entropy import cross_entropy
from maxsup_jax.losses._decomposition import (
  error_amplification,
  smoothing_regularization,
)
from maxsup_jax.losses._label_smoothing import label_smoothing_cross_entropy
from maxsup_jax.losses._max_suppression import (
  max_suppression,
  maxsup_cross_entropy,
)
from maxsup_jax.losses._objectives import (
  Objective,
  ce_objective,
  error_amplification_only_objective,
  ls_objective,
  maxsup_objective,
  regularization_only_objective,
)
from maxsup_jax.losses._registry import OBJECTIVES, SCHEDULES, make_objective
from maxsup_jax.losses._schedules import (
  EpochSchedule,
  Schedule,
  constant_alpha,
  linear_alpha,
)

__all__ = [
  'OBJECTIVES',
  'SCHEDULES',
  'EpochSchedule',
  'Objective',
  'Schedule',
  'ce_objective',
  'constant_alpha',
  'cross_entropy',
  'error_amplification',
  'error_amplification_only_objective',
  'label_smoothing_cross_entropy',
  'linear_alpha',
  'ls_objective',
  'make_objective',
  'max_suppression',
  'maxsup_cross_entropy',
  'maxsup_objective',
  'regularization_only_objective',
  'smoothing_regularization',
]
