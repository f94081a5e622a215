"""What the README says, runs."""

import re
import runpy
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


def blocks(language):
  return re.findall(rf'```{language}\n(.*?)```', README, re.S)


def test_the_python_example_runs_and_learns(tmp_path):
  (code,) = blocks('python')
  script = tmp_path / 'example.py'
  script.write_text(code)
  variables = runpy.run_path(str(script))
  assert variables['value'] < 2.302585  # log 10, where it started
  train_step = variables['train_step']
  assert train_step._cache_size() == 1


def test_every_program_and_file_that_is_named_exists():
  for name in re.findall(r'-m (experiments\.\w+)', README):
    assert (ROOT / f'{name.replace(".", "/")}.py').exists(), name
  for name in re.findall(r'`((?:maxsup_jax|configs)/[\w/.]+)`', README):
    assert (ROOT / name).exists(), name


def test_run_cards_and_fields_that_are_named_exist():
  from maxsup_jax.training.config import default_config

  config = default_config()
  for card, arguments in re.findall(r'--config=([\w/]+\.py):(\S+)', README):
    runpy.run_path(str(ROOT / card))['get_config'](arguments)
  for field in re.findall(r'--config\.([a-z_.]+)=', README):
    value = config
    for part in field.split('.'):
      value = value[part]


def test_ci_runs_the_test_command():
  """What .ci/run takes out of the page, with its own words."""
  script = (ROOT / '.ci' / 'run').read_text()
  extract = re.search(r'command=\$\((.*)\)\n', script)[1]
  command = subprocess.run(
    ['bash', '-c', extract],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
  block = README.split('<!-- test command -->')[1].split('```')[1]
  assert command == block.removeprefix('sh').strip()
  assert command.endswith('-m pytest -q')


def test_no_number_is_left_open():
  assert not re.findall(r'[A-Z]+_[A-Z]+', README.replace('TFDS_DATA_DIR', ''))
