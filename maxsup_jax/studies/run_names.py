"""Names of several runs, to show side by side."""

import os
from collections.abc import Sequence
from pathlib import Path


def run_names(workdirs: Sequence[str | os.PathLike]) -> list[str]:
  """The shortest ends of the paths that tell the runs apart.

  Args:
    workdirs: a directory that is given twice has the same name twice.

  Examples:
    >>> run_names(['runs/ce/seed0', 'runs/ls/seed0'])
    ['ce/seed0', 'ls/seed0']
  """
  paths = [Path(os.path.abspath(w)).parts for w in workdirs]
  for length in range(1, max(map(len, paths)) + 1):
    names = [os.path.join(*p[-length:]) for p in paths]
    if len(set(names)) == len(set(paths)):
      break
  return names
