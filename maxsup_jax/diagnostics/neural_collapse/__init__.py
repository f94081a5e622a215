"""Neural collapse: how the features and the classifier of a network collapse.

`neural_collapse` measures arrays in memory, in float64. `ClassMeans` and
`WithinClass` do the same in two passes over batches, also on accelerators and
inside steps that are mapped over devices. All return a `NeuralCollapse`, which
has the measures under the names of all papers.

>>> import numpy as np
>>> from maxsup_jax.diagnostics import neural_collapse as nc
>>> features = np.array([[3., 0], [1, 0], [0, 2], [0, 2]])
>>> result = nc.neural_collapse(features, np.array([0, 0, 1, 1]))
>>> print(round(result.nc1, 4), round(result.cdnv, 4), result.nc2)
0.0625 0.0625 None
"""

from maxsup_jax.diagnostics.neural_collapse.arrays import neural_collapse
from maxsup_jax.diagnostics.neural_collapse.measures import (
  BetweenClass,
  NeuralCollapse,
)
from maxsup_jax.diagnostics.neural_collapse.passes import (
  ClassMeans,
  WithinClass,
)

__all__ = [
  'BetweenClass',
  'ClassMeans',
  'NeuralCollapse',
  'WithinClass',
  'neural_collapse',
]
