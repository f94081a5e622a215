"""What programs answer to many command lines, for the price of one start."""

import json
import os
import subprocess
import sys
from typing import NamedTuple

from tests.conftest import ROOT

# All command lines from one process that has imported what takes seconds to
# import; each runs in a copy of it.
_MAKE_THEM = """
import json, os, runpy, signal, sys, tempfile, warnings
warnings.filterwarnings('ignore', 'os.fork')
import maxsup_jax.tasks.loading, maxsup_jax.reports.report
for name, *arguments in json.load(sys.stdin):
  with tempfile.TemporaryFile('w+', newline='') as err:
    child = os.fork()
    if not child:
      signal.alarm(60)
      os.dup2(err.fileno(), 2)
      os.dup2(err.fileno(), 1)
      sys.argv = [name, *arguments]
      code = None
      try:
        runpy.run_module(f'experiments.{name}', run_name='__main__')
      except SystemExit as e:
        code = e.code
      sys.stderr.flush()
      os._exit(code if isinstance(code, int) else 99)
    _, status = os.waitpid(child, 0)
    err.seek(0)
    print(json.dumps([os.waitstatus_to_exitcode(status), err.read()]))
"""


class Answer(NamedTuple):
  code: int
  text: str


def answers(command_lines, tmp, data_dir):
  """What each `[program, *arguments]` ends with, and writes."""
  done = subprocess.run(
    [sys.executable, '-c', _MAKE_THEM],
    input=json.dumps([list(map(str, line)) for line in command_lines]),
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=os.environ
    | {
      'TFDS_DATA_DIR': str(data_dir),
      'JAX_COMPILATION_CACHE_DIR': str(tmp / 'cache'),
    },
  )
  found = [Answer(*json.loads(line)) for line in done.stdout.splitlines()]
  assert len(found) == len(command_lines), done.stderr
  return found
