"""Names of several runs, to show side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

from maxsup_jax import errors


def run_names(workdirs: Sequence[str | os.PathLike]) -> list[str]:
  """The shortest ends of the paths that tell the runs apart.

  Args:
    workdirs: distinct.

  Raises:
    UsageError: if a directory is given twice.

  Examples:
    >>> run_names(['runs/ce/seed0', 'runs/ls/seed0'])
    ['ce/seed0', 'ls/seed0']
  """
  paths = [Path(os.path.abspath(w)).parts for w in workdirs]
  errors.distinct('workdir', [os.path.join(*p) for p in paths])
  for length in range(1, max(map(len, paths)) + 1):
    names = [os.path.join(*p[-length:]) for p in paths]
    if len(set(names)) == len(set(paths)):
      break
  return names
