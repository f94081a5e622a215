"""The section on how much of an example its logits remember."""

from typing import Any

import numpy as np

from maxsup_jax.diagnostics import mutual_information
from maxsup_jax.outputs import Outputs
from maxsup_jax.reports import blocks
from maxsup_jax.reports.measured import Measured, Options

NAME, TITLE = 'information', 'Information about the example'

_TITLES = {
  'in_sample': 'in-sample, as in the paper',
  'cross_fitted': 'cross-fitted',
  'bit': 'log 2, the class alone',
  'maximum': 'log of the number of examples, the most',
  'sigma': 'σ of the difference over augmentations',
  'examples': 'examples',
  'augmentations': 'augmentations of each',
}


def section(models: list[Measured], options: Options) -> blocks.Section:
  """Builds the section from the files that hold augmentations."""
  numbers: dict[str, dict[str, Any]] = {}
  columns: dict[str, list[dict[str, float]]] = {}
  pairs: dict[str, None] = {}
  for m in models:
    for part, outputs in (('train', m.train), ('test', m.outputs)):
      if outputs is None or outputs.augmented_logits is None:
        continue
      found, pair = _measure(outputs)
      numbers.setdefault(m.name, {})[part] = found
      method = m.outputs.method or m.name
      columns.setdefault(f'{method}, {part}', []).append(found)
      pairs[' and '.join(outputs.class_name(c) for c in pair)] = None
  if not columns:
    return blocks.Section(NAME, TITLE, [])
  table = blocks.table(
    'Mutual information (nats)',
    columns,
    _TITLES,
    f'Classes {"; ".join(pairs)}. Mutual information between the index of an '
    'example and the difference of the two logits over random augmentations, '
    'by the estimator of Müller et al. (2019, v3): Gaussians with a mean for '
    'each example and one variance. In-sample, the means are of the samples '
    'that are tested, which adds about 0.1; cross-fitted, a sample is tested '
    'with the mean of the others, which takes about 0.1 away. A classifier '
    'whose examples of a class look all alike keeps log 2.',
  )
  return blocks.Section(NAME, TITLE, [table], numbers)


def _measure(outputs: Outputs) -> tuple[dict[str, float], list[int]]:
  logits: Any = outputs.augmented_logits
  pair = np.unique(np.asarray(outputs.augmented_labels)).tolist()
  differences = mutual_information.class_logit_difference(logits, *pair)
  result = mutual_information.mutual_information(differences)
  M, L = differences.shape
  return {
    'in_sample': result.in_sample,
    'cross_fitted': result.cross_fitted,
    'bit': float(np.log(2)),
    'maximum': result.maximum,
    'sigma': result.sigma,
    'examples': M,
    'augmentations': L,
  }, pair
