"""Work directories in a bucket."""

import json

import pytest

from maxsup_jax import files
from maxsup_jax.training.workdir import Workdir
from tests.bucket import bucket  # noqa: F401
from tests.runs import assert_same_bits, last_state, timeless
from tests.training.test_loop import dies, failing, train

pytestmark = pytest.mark.usefixtures('cached_compilation')

RUN = 'gs://test-bucket/runs/one'


@pytest.mark.parametrize('step', [3, 40, 59])
def test_resuming_there_is_exact(tmp_path, bucket, step):
  run, records = train(tmp_path / 'here')
  with pytest.raises(KeyboardInterrupt):
    train(RUN, task=failing(step, dies))
  _, found = train(RUN)
  assert_same_bits(
    last_state(run, tmp_path / 'here'), last_state(run, files.located(RUN))
  )
  assert timeless(tmp_path / 'here') == timeless(files.located(RUN))
  assert found[0]['mse'] == records[0]['mse']
