import dataclasses
import json

import pytest

from maxsup_jax.outputs import Outputs
from tests.classifier import classifier, history


@pytest.fixture(scope='session')
def two_models():
  """Two models on the same examples, the first with everything there is."""

  def outputs(name, arrays, **rest):
    return Outputs(name=name, path=f'{name}.npz', **arrays, **rest)

  full = outputs(
    'CE',
    classifier(0),
    metadata={'dataset': 'blobs', 'split': 'test', 'step': 30},
    history=history(),
    head_error=0.0,
  )
  plain = classifier(1, labels=full.labels, sharpness=1.0)
  return full, dataclasses.replace(
    outputs('LS', plain, metadata=json.loads('{"dataset": "blobs"}')),
    history=history(1),
  )
