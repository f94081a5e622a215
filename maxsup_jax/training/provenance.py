"""Where numbers come from: the command, the commit and the versions."""

import contextlib
import datetime
import importlib.metadata
import pathlib
import shlex
import subprocess
import sys
from typing import Any

# Packages that decide the numbers; those that are not installed are left out.
PACKAGES = (
  'maxsup_jax',
  'jax',
  'jaxlib',
  'jax-cuda12-plugin',
  'jax-cuda13-plugin',
  'libtpu',
  'numpy',
  'optax',
  'flax',
  'orbax-checkpoint',
  'tensorflow-datasets',
  'grain',
  'pillow',
  'simplejpeg',
  'numba',
)


def provenance() -> dict[str, Any]:
  """The time, the command, the commit of the source and the versions."""
  now = datetime.datetime.now(datetime.UTC)
  return {
    'time': now.isoformat(timespec='seconds'),
    'command': shlex.join(['python', *sys.orig_argv[1:]]),
    'git_commit': git_commit(),
    'versions': versions(),
  }


def versions() -> dict[str, str]:
  """The versions of Python and of the installed packages among `PACKAGES`."""
  found = {'python': sys.version.split()[0]}
  for package in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[package] = importlib.metadata.version(package)
  return found


def git_commit() -> str | None:
  """The commit of the source, with '+' if files differ from it, or None."""
  here = pathlib.Path(__file__)

  def git(*arguments):
    return subprocess.run(
      ['git', '-C', str(here.parent), *arguments],
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    # An installed copy may lie inside somebody else's repository.
    git('ls-files', '--error-unmatch', here.name)
    commit = git('rev-parse', 'HEAD')
    changed = git('status', '--porcelain', '--untracked-files=no')
  except (OSError, subprocess.CalledProcessError):
    return None
  return commit + ('+' if changed else '')
