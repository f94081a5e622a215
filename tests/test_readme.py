"""What the README and the pages in docs say, runs."""

import importlib.util
import pkgutil
import re
import runpy
import subprocess
import sys
from inspect import getdoc, isclass, isfunction
from pathlib import Path

import pytest

from tests import evidence

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
DOCS = {
  p.relative_to(ROOT / 'docs').as_posix(): p.read_text()
  for pattern in ('*.md', 'guides/*.md')
  for p in (ROOT / 'docs').glob(pattern)
}
ALL = '\n'.join([README, *DOCS.values()])


def blocks(language, page=README):
  return re.findall(rf'```{language}\n(.*?)```', page, re.S)


def test_the_python_example_runs_and_learns(tmp_path, monkeypatch):
  from maxsup_jax import losses

  original, traces = losses.maxsup_cross_entropy, []

  def counted(*arguments):
    traces.append(arguments)
    return original(*arguments)

  monkeypatch.setattr(losses, 'maxsup_cross_entropy', counted)
  code, _ = blocks('python')
  script = tmp_path / 'example.py'
  script.write_text(code)
  variables = runpy.run_path(str(script))
  assert variables['value'] < 2.302585  # log 10, where it started
  # Three steps, a strength each, and one compilation.
  assert len(traces) == 1


def test_the_example_of_measurements_runs(tmp_path):
  _, code = blocks('python')
  script = tmp_path / 'example.py'
  script.write_text(code)
  variables = runpy.run_path(str(script))
  assert 0 < variables['ece'] < 1
  assert 0 < variables['aurc'] < variables['errors'].mean() < 1
  assert len(variables['curve']) == 800


PAGES = sorted((ROOT / 'docs').glob('*.md'))
WITH_EXAMPLES = [p for p in PAGES if blocks('python', p.read_text())]


def test_pages_have_examples():
  names = {path.name for path in WITH_EXAMPLES}
  assert names >= {'loss_reference.md', 'report.md', 'images.md'}


@pytest.mark.parametrize('path', WITH_EXAMPLES, ids=lambda path: path.name)
def test_the_examples_of_the_pages_run(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for number, code in enumerate(blocks('python', path.read_text())):
    if 'import timm' in code or 'import torch' in code:
      if not importlib.util.find_spec('torch'):
        continue
      # Its pretrained weights would be downloaded.
      monkeypatch.setitem(sys.modules, 'timm', Timm())
    script = tmp_path / f'example{number}.py'
    script.write_text(code)
    runpy.run_path(str(script))


class Timm:
  """What the examples use of timm: a model with its names, without weights."""

  def create_model(self, name, pretrained):
    import torch

    class Model(torch.nn.Module):
      def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 10)

      def forward_features(self, images):
        return images

      def forward_head(self, maps, pre_logits=False):
        pooled = maps.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)

      def forward(self, images):
        return self.forward_head(self.forward_features(images))

    assert (name, pretrained) == ('resnet18', True)
    return Model()


def test_files_of_other_frameworks_are_read(tmp_path, monkeypatch):
  """Those that the examples of docs/report.md have written."""
  from maxsup_jax.reports import compared

  pytest.importorskip('torch')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, 'timm', Timm())
  for code in blocks('python', DOCS['report.md'])[:3]:
    (tmp_path / 'example.py').write_text(code)
    runpy.run_path('example.py')
  read = {n: compared.read(n) for n in ('linear.pt', 'logistic.npz')}
  assert read['linear.pt'].logits.shape == (200, 3)
  assert (
    read['logistic.npz'].logits.argmax(1) == read['logistic.npz'].labels
  ).mean() > 0.9
  assert compared.read('resnet18.pt').linear


def test_the_page_of_losses_names_what_exists():
  from maxsup_jax import losses

  page = (ROOT / 'docs/loss_reference.md').read_text()
  table = page.split('## What they compute')[1].split('##')[0]
  rows = re.findall(r'^\| `(\w+)`((?:<br>|, |`\w+`)+)', table, re.M)
  assert {name for name, _ in rows} == set(losses.OBJECTIVES)
  for _, functions in rows:
    for function in re.findall(r'`(\w+)`', functions):
      assert hasattr(losses, function), function


def test_the_page_of_diagnostics_names_what_exists():
  from maxsup_jax import diagnostics
  from maxsup_jax.diagnostics.neural_collapse import NeuralCollapse

  page = (ROOT / 'docs/diagnostic_reference.md').read_text()
  for module in ('calibration', 'selective'):
    table = page.split(f'| measure | in `{module}` |')[1].split('\n\n')[0]
    names = re.findall(r'^\|[^|]*\| `(\w+)', table, re.M)
    assert len(names) > 4
    for name in names:
      assert hasattr(getattr(diagnostics, module), name), name
  table = page.split('| | Guo et al. 2025 |')[1].split('\n\n')[0]
  fields = NeuralCollapse.__dataclass_fields__
  for row in table.splitlines()[2:]:
    for name in re.findall(r'`(\w+)`', row.split('|')[-2]):
      assert name in fields, name


def _exists(name):
  """Whether a dotted name leads somewhere in the package."""
  for root in ('maxsup_jax', 'maxsup_jax.diagnostics'):
    found, rest = importlib.import_module(root), name.split('.')
    while rest:
      if not hasattr(found, rest[0]):
        path = f'{getattr(found, "__name__", "")}.{rest[0]}'
        if not importlib.util.find_spec(path):
          break
        importlib.import_module(path)
      found = getattr(found, rest.pop(0))
    else:
      return True
  return False


def test_names_of_the_package_exist():
  import maxsup_jax
  from maxsup_jax import diagnostics

  rooms = {m.name for m in pkgutil.iter_modules(maxsup_jax.__path__)}
  heads = '|'.join(rooms | set(diagnostics.__all__))
  code = '\n'.join(re.findall(r'`[^`\n]+`|```.*?```', ALL, re.S))
  named = re.findall(rf'(?<![\w.:/])((?:{heads})(?:\.\w+)+)', code)
  assert len(named) > 60
  files = {n for n in named if n.endswith('.py')}
  assert [n for n in set(named) - files if not _exists(n)] == []
  assert not _exists('losses.gone')
  assert not _exists('studies.gone.too')


def test_public_names_have_documentation():
  """All of them are in the site: those that docs/conf.py finds."""
  site = runpy.run_path(str(ROOT / 'docs' / 'conf.py'))
  names = 0
  for room in site['API']:
    for module in site['modules'](room):
      for name, value in site['public'](module):
        names += 1
        text = value.__doc__ or ''
        # Dataclasses without a text of their own have their signature there.
        assert text, (module, name)
        assert not text.startswith(f'{name}('), (module, name)
        if isclass(value):
          methods = {n for n, v in vars(value).items() if isfunction(v)}
          for member in methods - set(value.__annotations__):
            documented = getdoc(getattr(value, member))
            assert member.startswith('_') or documented, (name, member)
  assert names > 600


_FLAG = re.compile(r"DEFINE\w*\(\s*(?:\w+\(\),\s*)?'(\w+)'")


def test_flags_that_are_named_exist():
  command = r'-m experiments\.([.\w]+)((?: (?:\\\n\s*)?[^\s`#|;&>]+)*)'
  shared = [*(ROOT / 'experiments').glob('_*.py')]
  for name, arguments in re.findall(command, ALL):
    path = ROOT / 'experiments' / name.replace('.', '/')
    own = path.rglob('*.py') if path.is_dir() else [path.with_suffix('.py')]
    texts = [p.read_text() for p in (*own, *shared)]
    known = {flag for text in texts for flag in _FLAG.findall(text)}
    for flag in re.findall(r'--(\w+)', arguments):
      assert flag in known | {'config', 'help'}, f'{name} --{flag}'


def test_every_program_and_file_that_is_named_exists():
  for name in re.findall(r'-m (experiments[.\w]+)', ALL):
    path = ROOT / name.replace('.', '/')
    program = path / '__main__.py' if path.is_dir() else path.with_suffix('.py')
    assert program.exists(), name
  for name in re.findall(r'`((?:maxsup_jax|configs)/[\w/.]+)`', ALL):
    assert (ROOT / name).exists(), name


def test_run_cards_and_fields_that_are_named_exist():
  from maxsup_jax.tasks import default_config
  from maxsup_jax.tasks.config import FREE_SECTIONS, TASKS
  from maxsup_jax.training.config import fields

  known = {f for task in TASKS for f in fields(default_config(task))}
  for card, arguments in re.findall(r'--config=([\w/]+\.py):(\S+)', ALL):
    found = runpy.run_path(str(ROOT / card))
    found['get_study' if 'study_' in card else 'get_config'](arguments)
  for field in re.findall(r'--config\.([a-z_.]+)=', ALL):
    if field.split('.')[0] in FREE_SECTIONS:
      continue  # What is known there depends on the name.
    assert field in known, field


def test_the_table_of_run_cards_is_about_all_of_them():
  table = (
    DOCS['recipes.md']
    .split('| paper | card and arguments |')[1]
    .split('\n\n')[0]
  )
  named = re.findall(r'`(\w+\.py)(?::([^`]+))?`', table)
  for name, arguments in named:
    card = runpy.run_path(str(ROOT / 'configs' / name))
    card['get_config'](arguments or None)
  there = {path.name for path in (ROOT / 'configs').glob('*.py')}
  studies = {name for name in there if name.startswith('study_')}
  others = {'__init__.py', 'common.py'}
  assert {name for name, _ in named} == there - studies - others
  listed = re.findall(r'^\| \[(study_\w+\.py)\]', DOCS['studies.md'], re.M)
  assert set(listed) == studies


def test_the_tables_of_the_page_of_evidence_are_those_of_its_records():
  page = (ROOT / 'docs' / 'evidence.md').read_text()
  assert evidence.renewed(page) == page
  assert evidence.summarized(README) == README
  assert set(re.findall(r'<!-- study: (\w+)', page)) == set(evidence.records())


def test_the_page_of_images_names_all_operations():
  from maxsup_jax.data.preprocessing import OPERATIONS, parse_transform

  page = (ROOT / 'docs/images.md').read_text()
  table = page.split('| operation |')[1].split('\n\n')[0]
  examples = re.findall(r'^\| `([^`]+)` \|', table, re.M)
  assert {re.match(r'\w+', e)[0] for e in examples} == set(OPERATIONS)
  for example in examples:
    (operation,) = parse_transform(example).operations
    assert type(operation) is OPERATIONS[re.match(r'\w+', example)[0]]


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
  assert command.endswith('-m pytest -q -n 2')


def test_the_readme_is_short():
  assert len(README.split()) <= 1500


def _anchors(page):
  """The anchors of its headings, as GitHub and the site have them."""
  return {
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in re.findall(r'^#+ (.*)', page, re.M)
  }


def test_links_lead_somewhere():
  for name, page in {'../README.md': README, **DOCS}.items():
    here = ROOT / 'docs' / name
    for link, anchor in re.findall(r'\]\(([^)#:]*)(?:#([^)]*))?\)', page):
      target = here.parent / link if link else here
      assert target.exists(), f'{name}: {link}'
      if anchor:
        assert anchor in _anchors(target.read_text()), f'{name}: {anchor}'
