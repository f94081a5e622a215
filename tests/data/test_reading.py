import subprocess
import sys

import grain
import numpy as np
import pytest

from maxsup_jax.data.reading import read_ahead


def _batches(n):
  return grain.MapDataset.range(n).map(
    lambda i: {'label': np.full(3, i, np.int32)}
  )


@pytest.mark.parametrize('num_threads', [0, 1, 3])
def test_every_batch_once_and_in_order(num_threads):
  taken = list(read_ahead(_batches(7), num_threads=num_threads))
  assert [b['label'].tolist() for b in taken] == [[i] * 3 for i in range(7)]


@pytest.mark.parametrize(
  ('prefetch', 'expected'), [(None, 3), (0, 1), (1, 2), (5, 6)]
)
def test_reads_as_far_ahead_as_told(prefetch, expected):
  made = []
  batches = grain.MapDataset.range(99).map(lambda i: made.append(i) or {})
  iterator = read_ahead(batches, num_threads=1, prefetch=prefetch)
  next(iterator)
  iterator.close()
  made = list(made)  # The thread may still be at its last one.
  assert len(made) <= expected
  assert made == list(range(len(made)))


def test_close():
  iterator = read_ahead(_batches(9), num_threads=1)
  next(iterator)
  iterator.close()
  iterator.close()
  assert list(iterator) == []


@pytest.mark.parametrize('name', ['num_threads', 'prefetch', 'workers'])
def test_refuses(name, refused):
  with refused('must not be negative, but are .*-1'):
    read_ahead(_batches(3), **{'num_threads': 1, name: -1})


ENDS = {
  'open': """
  batches = data.train_batches(source, batch_size=4, seed=0, workers=2)
  print(next(batches)['image'].shape)
""",
  'read to the end': """
  batches = data.eval_batches(source, batch_size=4, workers=2)
  print([*batches][0]['image'].shape)
""",
  'stopped by an error': """
  batches = data.eval_batches(source, batch_size=4, workers=2, transform=fail)
  print(next(batches)['image'].shape)
  try:
    list(batches)
  except ValueError as error:
    assert 'example 8' in str(error), error
""",
}


@pytest.mark.parametrize('end', ENDS)
def test_a_program_may_end_with_iterators(tmp_path, end):
  """Also one that never parsed command-line flags, as in a notebook."""
  program = tmp_path / 'program.py'
  program.write_text(f"""
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
{ENDS[end]}""")
  process = subprocess.run(
    [sys.executable, program], capture_output=True, text=True
  )
  assert (process.stdout, process.stderr) == ('(4, 4, 4, 1)\n', '')
  assert process.returncode == 0
