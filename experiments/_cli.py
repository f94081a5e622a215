"""What the programs share: flags and one-line errors.

Nothing heavy is imported here, so that `--help` answers at once.
"""

import contextlib
import errno
import os
import pathlib
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags, logging

from experiments import _processes
from maxsup_jax import errors, files
from maxsup_jax.errors import UsageError
from maxsup_jax.files import require_disk

USAGE_EXIT_CODE = 2
# Beside the work directory, so that all runs of a place share it.
_CACHE = '.compilation_cache'
# Fields that `--config.FIELD=None` has reset.
RESET: dict[str, None] = {}

# When the program began, but for the start of Python itself.
BEGAN = time.perf_counter()


def run(
  main: Callable[..., int | None],
  config: str | None = None,
  *,
  files: bool = False,
  several: bool = False,
  anywhere: bool = False,
) -> None:
  """Runs a program: parses flags, and prints a user's mistake as one line.

  Args:
    main: takes nothing and returns an exit code, or None for 0.
    config: the default run card, for programs with the flag --config.
    files: whether `main` takes a list of arguments that stand beside the flags.
    several: whether it may be one of several processes.
    anywhere: whether --out may be in a bucket.
  """
  if several:
    _processes.expect_several()

  def parse(argv):
    modules, shared = flags.FLAGS.flags_by_module_dict(), []
    for module in (__name__, _processes.__name__):
      shared += modules.get(module, ())
    try:
      if config:
        argv = _with_config(argv, config)
        shared.append(flags.FLAGS['config'])
      for flag in shared:
        # So that --help of the program lists them, too.
        flags.FLAGS.register_key_flag_for_module(argv[0], flag)
      rest = flags.FLAGS(argv)
      if len(rest) > 1 and not files:
        raise UsageError(
          f'unexpected argument {rest[1]!r}; known flags: '
          f'{", ".join(f"--{n}" for n in _known_flags())}'
        )
      _refuse_empty()
      if not anywhere:
        _refuse_bucket()
    except flags.UnrecognizedFlagError as e:
      flag, known = e.flagname, _known_flags()
      _refuse(errors.unknown(f'flag --{flag}', flag, known, prefix='--'))
    except flags.IllegalFlagValueError as e:
      _refuse(_illegal(e))
    # absl raises ValueError for --nofoo=3 and for a --flagfile that is no text.
    except (ValueError, OSError, flags.Error) as e:
      _refuse(e)
    return rest

  def guarded(argv):
    # orbax logs every save as a warning, and its failures beside raising them.
    logging.set_verbosity(logging.FATAL)
    try:
      with _processes.ending_together(), _one_line_errors():
        code = main(argv[1:]) if files else main()
        sys.stdout.flush()
        return code
    except UsageError as e:
      _refuse(e)

  app.run(guarded, flags_parser=parse)


def define_run_flags(*, split: bool = True, weights: bool = True) -> None:
  """Defines the flags of a program that opens a trained run."""
  define_data_dir()
  define_compilation_cache()
  define_step('Which checkpoint: its step, latest (the default) or best.')
  if split:
    flags.DEFINE_string(
      'split',
      None,
      "A split of the dataset; by default the config's eval_split.",
    )
  if weights:
    flags.DEFINE_enum(
      'weights',
      'raw',
      ['raw', 'ema'],
      'The weights as trained, or their moving average.',
    )


class _StepParser(flags.ArgumentParser):
  """Of a checkpoint: its step, or a name."""

  syntactic_help = 'a step, latest or best'

  def parse(self, argument):
    if not (argument.isdecimal() or argument in ('latest', 'best')):
      raise ValueError('no step')
    return argument


def define_step(text: str) -> None:
  """Defines the flag for which checkpoint."""
  flags.DEFINE(_StepParser(), 'step', None, text)


def define_dataset() -> None:
  """Defines the flag for another dataset than that of the run."""
  flags.DEFINE_string(
    'dataset',
    None,
    'Another dataset with the same classes, or some of them, by their names; '
    "its split 'test' by default.",
  )


def define_data_dir() -> None:
  """Defines the flag for where datasets are."""
  flags.DEFINE_string(
    'data_dir', None, 'The directory of the datasets; by default that of tfds.'
  )


def define_compilation_cache() -> None:
  """Defines the flag for where compiled programs are kept."""
  flags.DEFINE_string(
    'compilation_cache',
    None,
    'The directory that keeps compiled programs, so that the next start does '
    'not compile them again; empty for none (default: '
    f'JAX_COMPILATION_CACHE_DIR, or {_CACHE} beside the work directory, none '
    'beside one in a bucket). '
    'Several hosts must share it: only process 0 writes to it.',
  )


def keep_compiled(workdir: str | os.PathLike) -> None:
  """Makes JAX keep compiled programs, as the flag says, or beside a run.

  Where the default directory cannot be used, nothing is kept: a program must
  not fail for a cache that nobody asked for.
  """
  import jax

  from maxsup_jax.training import compilation

  given = flags.FLAGS.compilation_cache
  if given == '':
    jax.config.update('jax_enable_compilation_cache', False)
  elif given or not jax.config.jax_compilation_cache_dir:
    if not given and files.is_remote(workdir):
      return
    try:
      default = pathlib.Path(workdir).absolute().parent / _CACHE
      compilation.keep_compiled(given or default)
    except UsageError as e:
      if given:
        raise UsageError(f'--compilation_cache: {e}') from None
      if jax.process_index() == 0:
        print(f'note: {e}; see --compilation_cache', file=sys.stderr)


def check_runs(*workdirs: str, images: bool = False) -> None:
  """Refuses what is no run, before what takes seconds is imported.

  Several processes look when they have joined: one that ended alone would leave
  the others waiting. With `images` also what is a run of something else.
  """
  from maxsup_jax.tasks import config

  if not _processes.are_several():
    for workdir in workdirs:
      directory = config.open_workdir(workdir)
      directory.config()
      if images:
        config.check_images(directory)


def values(*names: str) -> dict[str, Any]:
  """The values of some flags, by name."""
  return {name: flags.FLAGS[name].value for name in names}


def needed(flag: str, what: str = 'the directory of a run') -> Any:
  """The value of a flag that has to be given."""
  if flags.FLAGS[flag].value in (None, []):
    raise UsageError(f'--{flag} is needed: {what}')
  return flags.FLAGS[flag].value


def numbers(flag: str, kind: type = int) -> tuple[Any, ...]:
  """Reads the numbers of a flag that is a list."""
  try:
    return tuple(map(kind, flags.FLAGS[flag].value))
  except ValueError:
    given = ','.join(flags.FLAGS[flag].value)
    expected = 'whole numbers' if kind is int else 'numbers'
    raise UsageError(f'--{flag} is {given}; expected {expected}') from None


def _with_config(argv: list[str], default: str) -> list[str]:
  """Loads the run card of --config and defines the flags of its fields.

  Returns the arguments without --config itself. The card is loaded here, not by
  ml_collections, so that what is wrong in it becomes one line.
  """
  from ml_collections import ConfigDict, config_flags

  from maxsup_jax import errors, tasks
  from maxsup_jax.tasks.config import FREE_SECTIONS
  from maxsup_jax.training.config import fields

  argv, card = take_card(argv, default)
  # Complete, so that a section of the card need not name all of its fields.
  config = tasks.resolve(load_card(card)).unlock()
  rest = []
  for argument in argv:
    match = re.fullmatch(r'--?config\.([^=]*)(?:=(.*))?', argument, re.DOTALL)
    *sections, name = match[1].split('.') if match else ['']
    level, free = config, sections[:1] and sections[0] in FREE_SECTIONS
    for i, part in enumerate([*sections, name] if match else []):
      known = isinstance(level, ConfigDict) and part in level
      if free and i == 1 and len(sections) == 1:
        # What is known depends on the section's name: the builders check it.
        break
      if not known:
        names = level if isinstance(level, ConfigDict) else []
        prefix = ''.join(f'{p}.' for p in ['config', *sections[:i]])
        raise errors.unknown(
          f'field config.{match[1]}',
          part,
          names,
          prefix=prefix,
          elsewhere=[f'config.{field}' for field in fields(config)],
        )
      parent, level = level, level[part]
    if match and match[2] == 'None' and not free:
      # A flag would take it for a text. What was given before counts no more.
      earlier = rf'--?config\.{re.escape(match[1])}='
      rest = [a for a in rest if not re.match(earlier, a)]
      parent[name] = None
      RESET[match[1]] = None
    else:
      rest.append(argument)
  argv = rest
  config_flags.DEFINE_config_dict(
    'config',
    config,
    f'Run card, path.py or path.py:name=value,... (default: {default}). Any '
    'field of it can be set with --config.FIELD=VALUE. Its fields, as given: '
    + ', '.join(f'{n}={v!r}' for n, v in fields(config).items()),
    lock_config=False,
    accept_new_attributes=True,
    sys_argv=argv,
  )
  # The help has the fields already, and this would lose their sections.
  flags.FLAGS['config'].default_as_str = ''
  return argv


def take_card(argv: list[str], default: str) -> tuple[list[str], str]:
  """Takes `--config=CARD` or `--config CARD` out of the arguments."""
  rest, card = [], default
  arguments = iter(argv)
  for argument in arguments:
    match = re.fullmatch('--?config(=(.*))?', argument)
    if not match:
      rest.append(argument)
    elif match[1]:
      card = match[2]
    else:
      card = next(arguments, '')
  return rest, card


def load_card(card: str, function: str = 'get_config') -> Any:
  """What a card, `path.py` or `path.py:argument`, gives.

  Its `get_config` gives the ConfigDict of a run, its `get_study` a Study.
  """
  from ml_collections import ConfigDict

  path, *argument = card.split(':', 1)
  if not os.path.isfile(path):
    raise UsageError(f'no run card {path!r}')
  kind: Any = ConfigDict
  if function == 'get_study':
    from maxsup_jax.studies.study import Study

    kind = Study
  try:
    names = runpy.run_path(path)
    if function not in names:
      what = 'study' if function == 'get_study' else 'run'
      raise UsageError(f'{path} is not the card of a {what}: no {function}()')
    found = names[function](*argument)
  except UsageError:
    raise
  except Exception as e:  # a card is Python: anything can go wrong in it
    raise UsageError(
      f'the card {path!r} cannot be loaded ({type(e).__name__}: {e})'
    ) from e
  if not isinstance(found, kind):
    raise UsageError(
      f'{function}() of the card {path!r} returned a {type(found).__name__}; '
      f'expected a {kind.__name__}'
    )
  return found


def _known_flags() -> list[str]:
  own = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
  names = sorted({f.name for f in own})
  return [*names, 'config.FIELD'] if 'config' in names else names


def _refuse_empty() -> None:
  """Refuses flags without a value, as `--out=$OUT` is where OUT is not set.

  A flag that may be empty says so in its help.
  """
  for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
    values = flag.value if isinstance(flag.value, list) else [flag.value]
    empty = not values or '' in values
    if flag.present and empty and 'empty' not in flag.help:
      raise UsageError(f'--{flag.name} is empty; expected a value')


def _illegal(error: flags.IllegalFlagValueError) -> str:
  """What absl says of a value that a flag cannot take, in plain words."""
  reason = f': {error.__context__}'
  given = re.fullmatch(
    r'flag --([\w.]+)=(.*)', str(error).removesuffix(reason), re.DOTALL
  )
  if not given:
    return str(error)
  name, value = given.groups()
  parser = flags.FLAGS[name].parser
  if isinstance(parser, flags.EnumParser):
    try:
      errors.one_of(f'--{name}', value, parser.enum_values)
    except UsageError as e:
      return str(e)
  expected = parser.syntactic_help
  if isinstance(parser, flags.BooleanParser):
    expected = 'True or False'
  elif expected.startswith('integer'):
    expected = f'an {expected}'
  if not expected:
    expected = "a mapping, such as {'name': 'ls'}; its fields have flags, too"
  return f'--{name} is {value!r}; expected {expected}'


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
  """What the machine refuses is no fault of the program: it is one line."""
  try:
    yield
  except BrokenPipeError:
    # As `| head` ends: nobody reads on. Nor must Python flush when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(128 + signal.SIGPIPE)
  except MemoryError as e:
    raise UsageError(
      f'the memory is not enough for these values: {errors.one_line(e)}'
    ) from e
  except Exception as e:
    # JAX has errors that look like TensorStore's.
    if files.is_of_storage(e) and not isinstance(e, ValueError):
      raise UsageError(
        f'the bucket cannot be used: {errors.one_line(e)[:300]}; what is saved '
        'there stays, and the same command goes on'
      ) from e
    if not isinstance(e, OSError):
      raise
    if e.filename is None and e.errno not in (errno.ENOSPC, errno.EDQUOT):
      raise
    raise UsageError(f'{e.filename or "output"}: {e.strerror}') from e


def _refuse_bucket() -> None:
  """What is no path on the disk would be taken for a directory called gs:."""
  if 'out' in flags.FLAGS and isinstance(flags.FLAGS['out'].value, str):
    require_disk('--out', flags.FLAGS['out'].value)


def _refuse(error: object) -> None:
  """Ends the program with a user's mistake as one line."""
  if _processes.is_first():
    print('error: ' + _translated(error), file=sys.stderr)
  else:
    # mpirun ends all processes as soon as one of them has failed.
    time.sleep(2)
  sys.exit(USAGE_EXIT_CODE)


def _translated(error: object) -> str:
  """A message of the library, in which arguments have names, with flags."""
  text, known = errors.printable(' '.join(str(error).split())), flags.FLAGS
  first = re.match(r'(\w+)(?= (?:is|has|are) |:)', text)
  if first and first[1] in known:
    text = f'--{text}'
  return re.sub(
    r'\b(\w+)=True', lambda m: f'--{m[1]}' if m[1] in known else m[0], text
  )
