"""Starts programs without importing again what all of them import.

Reads jobs, a JSON line each: the module, its arguments, the environment and a
path. Runs each in a fork of this process, with what it writes in PATH.out and
PATH.err, and answers with its exit code.
"""

import importlib
import json
import os
import runpy
import sys

# Of others only: what the programs import of ours, they import.
LARGE = (
  *('cv2', 'flax.linen', 'grain', 'matplotlib.pyplot', 'ml_collections'),
  *('orbax.checkpoint', 'scipy.optimize', 'tensorboardX'),
  'tensorflow_datasets',
)


def main():
  for name in LARGE:
    importlib.import_module(name)
  for line in sys.stdin:
    name, arguments, environment, path = json.loads(line)
    if child := os.fork():
      print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
      continue
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, kind in ((1, 'out'), (2, 'err')):
      os.dup2(os.open(f'{path}.{kind}', os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [name, *arguments]
    sys.orig_argv = [sys.executable, '-m', *sys.argv]
    runpy.run_module(name, run_name='__main__', alter_sys=True)
    break


if __name__ == '__main__':
  main()
