"""What an objective did to the features and the logits of a classifier.

>>> import numpy as np
>>> from maxsup_jax.diagnostics import representation
>>> features = np.array([[1, 0], [.8, .6], [0, 1], [-.6, .8]])
>>> variation = representation.cosine_variation(features, [0, 0, 1, 1])
>>> print(round(variation.within, 4), round(variation.r_squared, 4))
0.1 0.8182
"""

from maxsup_jax.diagnostics.representation.cosine import (
  CosineVariation,
  cosine_variation,
)
from maxsup_jax.diagnostics.representation.logits import (
  effective_smoothing,
  logit_density,
  near_zero_share,
  stability,
)

__all__ = [
  'CosineVariation',
  'cosine_variation',
  'effective_smoothing',
  'logit_density',
  'near_zero_share',
  'stability',
]
