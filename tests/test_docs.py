"""The site: every page is found, and `python -m sphinx` builds it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import maxsup_jax

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'


def test_every_page_is_in_the_contents():
  index = (DOCS / 'index.md').read_text()
  listed = re.findall(r'```\{toctree\}\n(?::.*\n)*\n([^`]+)```', index)
  names = {name for part in listed for name in part.split()}
  pages = {
    str(p.relative_to(DOCS).with_suffix(''))
    for p in DOCS.rglob('*.md')
    if not {'_build', 'jupyter_execute'} & {*p.parts}
  }
  assert {n for n in names if not n.startswith('api/')} == pages - {'index'}


def test_the_citation_is_of_this_version():
  citation = (ROOT / 'CITATION.cff').read_text()
  assert f'\nversion: {maxsup_jax.__version__}\n' in citation


def test_the_package_tells_what_is_installed():
  found = subprocess.run(
    [sys.executable, '-m', 'maxsup_jax'], capture_output=True, text=True
  )
  assert found.returncode == 0
  assert found.stdout.startswith(f'maxsup_jax {maxsup_jax.__version__}, jax ')
  assert 'maxsup_jax[train]: there' in found.stdout


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
  """With its guides executed; the API has every public name."""
  pytest.importorskip('sphinx')
  pytest.importorskip('myst_nb')
  subprocess.run(
    [sys.executable, '-m', 'sphinx', '-q', '-W', DOCS, tmp_path], check=True
  )
  from maxsup_jax import losses

  page = (tmp_path / 'api' / 'losses.html').read_text()
  for name in losses.__all__:
    assert f'maxsup_jax.losses.{name}' in page
