import subprocess
import sys

import pytest

from maxsup_jax.data.reading import read_ahead


@pytest.mark.parametrize(
  ('prefetch', 'expected'), [(None, 3), (0, 1), (1, 2), (5, 6)]
)
def test_reads_as_far_ahead_as_told(prefetch, expected):
  made = []
  iterator = read_ahead(
    lambda i: made.append(i) or {}, range(99), num_threads=1, prefetch=prefetch
  )
  next(iterator)
  iterator.close()
  made = list(made)  # The thread may still be at its last one.
  assert len(made) <= expected
  assert made == list(range(len(made)))


def test_close():
  iterator = read_ahead(lambda i: {}, range(9), num_threads=1)
  next(iterator)
  iterator.close()
  iterator.close()
  assert list(iterator) == []


def test_a_program_may_end_with_iterators(tmp_path):
  """Open ones, and one that an error stopped; flags were never parsed."""
  program = tmp_path / 'program.py'
  program.write_text("""
import numpy as np
from maxsup_jax import data
def fail(image, rng):
  if image.any():
    raise ValueError
  return image
if __name__ == '__main__':
  images = np.zeros((9, 4, 4), np.uint8)
  images[8] = 1
  source = data.ArraySource(images, np.zeros(9, int), 1)
  batches = data.train_batches(source, batch_size=4, seed=0, workers=1)
  print(next(batches)['image'].shape)
  broken = data.eval_batches(source, batch_size=4, workers=1, transform=fail)
  try:
    list(broken)
  except ValueError as error:
    assert 'example 8' in str(error), error
""")
  process = subprocess.run(
    [sys.executable, program], capture_output=True, text=True
  )
  assert (process.stdout, process.stderr) == ('(4, 4, 4, 1)\n', '')
  assert process.returncode == 0
