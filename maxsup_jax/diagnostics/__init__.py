"""What an objective did to a classifier, measured from its outputs.

Everything here takes plain arrays of any framework and returns plain numbers;
nothing trains, and no file is read or written. It needs jax, numpy and scipy
only. What all measurements share is said here and nowhere else:

* `logits` are floating point `[N, K]`, or `[N]` or `[N, 1]` for the single
  logit z of a binary classifier, which stands for `(0, z)` or, where a shift
  matters, for `(-z/2, z/2)`; `labels` are integer class ids `[N]`, `features`
  floating point `[N, D]`, `weights` of a classifier `[K, D]`. Weights of
  examples are integers `[N]`: how often each counts.
* Logits of masked classes may be -inf where only their softmax or the largest
  one counts, but not those of labels. Probabilities are refused: `np.log` makes
  logits of them.
* Orderings, probabilities and sums are in float64 on the host. The largest
  logit is the prediction, the first one of several.
* What cannot be measured is refused with a `UsageError`, one line that names
  the argument: a wrong shape or dtype, no examples, NaN or infinity, a number
  in float64 beyond 1e150, a label outside `[0, K)`, a number outside its range.
  A measure that is not defined is NaN.
* Where the field has several conventions under one name, each has a name here,
  and the default is that of the paper, where it has one.

Papers are cited by authors and year; docs/diagnostic_reference.md lists them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from maxsup_jax.diagnostics import (
    bootstrap,
    calibration,
    conformal,
    gradcam,
    mutual_information,
    neural_collapse,
    projection,
    representation,
    segmentation,
    selective,
    smooth_calibration,
    unconstrained,
  )

__all__ = [
  'bootstrap',
  'calibration',
  'conformal',
  'gradcam',
  'mutual_information',
  'neural_collapse',
  'projection',
  'representation',
  'segmentation',
  'selective',
  'smooth_calibration',
  'unconstrained',
]


def __getattr__(name: str) -> Any:
  # Imported when it is asked for: some need JAX, others do not.
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return importlib.import_module(f'{__name__}.{name}')
