"""What an objective did to a classifier, measured from its outputs.

Everything here takes plain arrays (logits, labels, features, weights), of any
framework, and returns plain numbers; nothing trains, and no file is read or
written. Orderings and calibration are computed in float64 on the host. Where
the field has several conventions under one name, each has a name here, and the
default is that of the paper, where it has one.

This package needs jax, numpy and scipy only.
"""

from maxsup_jax.diagnostics import (
  bootstrap,
  calibration,
  gradcam,
  mutual_information,
  neural_collapse,
  projection,
  representation,
  selective,
  unconstrained,
)

__all__ = [
  'bootstrap',
  'calibration',
  'gradcam',
  'mutual_information',
  'neural_collapse',
  'projection',
  'representation',
  'selective',
  'unconstrained',
]
