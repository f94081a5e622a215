"""When, how and on what a measurement was taken."""

import os
import pathlib
from typing import Any

import jax
import jax.extend

from maxsup_jax.training.provenance import provenance


def record_start() -> dict[str, Any]:
  """When, how and on what this program runs, for its record."""
  return {
    **provenance(),
    'hardware': {
      'platform': jax.default_backend(),
      'platform_version': jax.extend.backend.get_backend().platform_version,
      'device_kind': jax.devices()[0].device_kind,
      'device_count': jax.device_count(),
      'process_count': jax.process_count(),
      'host_cpu': _host_cpu(),
      'host_cpu_count': os.cpu_count(),
      # What else ran on the host, before the measurement adds its own.
      'host_load': os.getloadavg()[0],
    },
  }


def _host_cpu() -> str | None:
  """The name of the host's processor, where Linux tells it."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text()
  except OSError:
    return None
  names = [x for x in text.splitlines() if x.startswith('model name')]
  return names[0].partition(':')[2].strip() if names else None
