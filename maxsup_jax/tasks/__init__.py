"""What is trained: from a configuration to a run, and back from a directory.

  build(config)      everything that a run needs, checked before it starts
  load_run(workdir)  a run that has been trained, with its weights

Training itself, `maxsup_jax.training.loop.train(run, workdir)`, knows of a task
what `maxsup_jax.training.task` says.
"""

import importlib
from typing import TYPE_CHECKING, Any

from maxsup_jax.tasks.config import check_names as check_names
from maxsup_jax.tasks.config import default_config as default_config
from maxsup_jax.tasks.config import default_workdir as default_workdir
from maxsup_jax.tasks.config import open_workdir as open_workdir
from maxsup_jax.tasks.config import resolve as resolve

if TYPE_CHECKING:
  from maxsup_jax.tasks.building import build as build
  from maxsup_jax.tasks.loading import LoadedRun as LoadedRun
  from maxsup_jax.tasks.loading import load_run as load_run

# Imported when they are asked for: a wrong flag should not wait for orbax.
_LAZY = {
  'LoadedRun': 'loading',
  'build': 'building',
  'load_run': 'loading',
}


def __getattr__(name: str) -> Any:
  if name not in _LAZY:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module = importlib.import_module(f'{__name__}.{_LAZY[name]}')
  return getattr(module, name)
