"""The site: `python -m sphinx -W docs docs/_build`.

Pages are the Markdown files beside this one. Those in guides/ with code cells
are executed, and their figures are made by them. The API is generated from the
public names of the packages in `API` and their docstrings.
"""

import inspect
import os
import pathlib
import pkgutil
import sys
from importlib import import_module

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import maxsup_jax  # noqa: E402

project = 'maxsup_jax'
author = 'The maxsup_jax authors'
version = release = maxsup_jax.__version__
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_math_renderer = 'mathml'
html_theme = 'furo'
html_title = f'maxsup_jax {release}'
exclude_patterns = ['_build', 'jupyter_execute']
templates_path: list[str] = []

myst_enable_extensions = ['colon_fence', 'dollarmath']
# Anchors of headings, as GitHub has them.
myst_heading_anchors = 3
# Links that lead out of the site, to the files of the repository; fields of
# equal names in several classes.
suppress_warnings = ['myst.xref_missing', 'misc.highlighting_failure']
suppress_warnings += ['ref.python']
nb_execution_mode = 'force'
nb_execution_raise_on_error = True
nb_execution_timeout = 600
# Most of the guides' time would go to compiling programs that run once.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
nb_merge_streams = True

autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_default_options = {'members': True, 'undoc-members': False}
napoleon_google_docstring = True
napoleon_use_rtype = False
# Attributes are described once, not again as members.
napoleon_use_ivar = True
add_module_names = False
toc_object_entries_show_parents = 'hide'
# Docstrings have code in single backticks.
default_role = 'code'

# The packages whose public names are for users, in the order of the site.
API = (
  *('losses', 'diagnostics', 'models', 'data', 'tasks', 'training'),
  *('studies', 'reports', 'outputs', 'errors'),
)


def public(module):
  """The public functions and classes that are a module's own.

  A package's own are those of its modules that it exports.
  """
  exported = getattr(module, '__all__', None) or [
    name for name in vars(module) if not name.startswith('_')
  ]
  package = hasattr(module, '__path__')
  for name in exported:
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isfunction(value):
      home = value.__module__
      if home == module.__name__ or (
        package and home.startswith(f'{module.__name__}.')
      ):
        yield name, value


def modules(name):
  """A package of `API`, and the public modules in it."""
  package = import_module(f'maxsup_jax.{name}')
  yield package
  for info in pkgutil.iter_modules(getattr(package, '__path__', [])):
    if not info.name.startswith('_'):
      yield import_module(f'{package.__name__}.{info.name}')


def write_api():
  """Writes a page for each package; every name where it is first public."""
  folder = HERE / 'api'
  folder.mkdir(exist_ok=True)
  for name in API:
    title = f'maxsup_jax.{name}'
    lines, seen = [title, '=' * len(title), ''], set()
    for module in modules(name):
      found = [(n, v) for n, v in public(module) if id(v) not in seen]
      if not found and module.__name__ != title:
        continue
      if module.__name__ != title:
        lines += [module.__name__, '-' * len(module.__name__), '']
      lines += [f'.. automodule:: {module.__name__}', '   :no-members:', '']
      for attribute, value in found:
        seen.add(id(value))
        kind = 'class' if inspect.isclass(value) else 'function'
        lines += [f'.. auto{kind}:: {module.__name__}.{attribute}', '']
    page = folder / f'{name}.rst'
    text = '\n'.join(lines)
    if not page.exists() or page.read_text() != text:
      page.write_text(text)


def write_math(writer, node):
  """Writes a formula as MathML, which browsers show without a script."""
  # A test reads this file without the packages of the site.
  from docutils import nodes
  from latex2mathml import converter

  block = isinstance(node, nodes.math_block)
  display = 'block' if block else 'inline'
  writer.body.append(converter.convert(node.astext(), display=display))
  raise nodes.SkipNode


def setup(app):
  """Sphinx calls it before it looks for pages."""
  app.connect('builder-inited', lambda _: write_api())
  both = (write_math, None), (write_math, None)
  app.add_html_math_renderer('mathml', *both)
