"""What is installed here: `python -m maxsup_jax`."""

import platform
import re
from importlib import metadata

import jax

import maxsup_jax
from maxsup_jax import losses


def extras() -> dict[str, list[str]]:
  """The packages that each extra still lacks here."""
  lacking: dict[str, list[str]] = {}
  for requirement in metadata.requires('maxsup_jax') or ():
    name = re.match(r'[\w.-]+', requirement)
    extra = re.search(r"extra == ['\"]([\w-]+)", requirement)
    if name is None or extra is None:
      continue
    lacking.setdefault(extra[1], [])
    try:
      metadata.version(name[0])
    except metadata.PackageNotFoundError:
      lacking[extra[1]].append(name[0])
  return lacking


def main() -> None:
  """Prints versions, devices, extras and where to read on."""
  print(
    f'maxsup_jax {maxsup_jax.__version__}, jax {jax.__version__}, Python '
    f'{platform.python_version()}'
  )
  devices = jax.devices()
  print(f'devices: {len(devices)} x {devices[0].device_kind}')
  print(f'objectives: {", ".join(losses.OBJECTIVES)}')
  for name, packages in extras().items():
    there = f'lacks {", ".join(packages)}' if packages else 'there'
    print(f'maxsup_jax[{name}]: {there}')
  print(
    'help(maxsup_jax.losses) has formulas and examples; the guides and the '
    'training programs are in the repository: README.md, docs, experiments'
  )


if __name__ == '__main__':
  main()
