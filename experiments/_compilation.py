"""The flag for where compiled programs are kept."""

import pathlib
import sys

from absl import flags

from maxsup_jax.errors import UsageError

# Beside the work directory, so that all runs of a place share it.
_NAME = '.compilation_cache'

_CACHE = flags.DEFINE_string(
  'compilation_cache',
  None,
  'The directory that keeps compiled programs, so that the next start does '
  'not compile them again; empty for none (default: '
  f'JAX_COMPILATION_CACHE_DIR, or {_NAME} beside the work directory). '
  'Several hosts must share it: only process 0 writes to it.',
)


def keep_compiled(workdir: pathlib.Path) -> None:
  """Makes JAX keep compiled programs, as the flag says.

  Where the default directory cannot be used, nothing is kept: a program must
  not fail for a cache that nobody asked for.

  Args:
    workdir: the directory of the run.

  Raises:
    UsageError: if the directory of the flag cannot be used.
  """
  import jax

  from maxsup_jax.training import compilation

  given = _CACHE.value
  if given is None and jax.config.jax_compilation_cache_dir:
    return
  if given is None:
    try:
      compilation.keep_compiled(workdir.absolute().parent / _NAME)
    except UsageError as e:
      if jax.process_index() == 0:
        print(f'note: {e}; see --compilation_cache', file=sys.stderr)
  elif given:
    try:
      compilation.keep_compiled(given)
    except UsageError as e:
      raise UsageError(f'--compilation_cache: {e}') from None
  else:
    jax.config.update('jax_enable_compilation_cache', False)
