"""Finds the tfds builder of a prepared dataset, by name or by directory."""

import difflib
import importlib
import os
import pathlib

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import naming, read_only_builder

from maxsup_jax.data import _prepare, _storage
from maxsup_jax.errors import UsageError, one_line

# Datasets that are generated on first use, and the modules of their builders.
EMBEDDED = {
  'digits': 'maxsup_jax.data.digits',
  'glyphs': 'maxsup_jax.data.glyphs',
  'glyph_scenes': 'maxsup_jax.data.glyph_scenes',
}
# Those with configs, and what the name of one looks like.
_CONFIGURED = {
  'glyphs': 'glyphs/26x10000_32_medium',
  'glyph_scenes': 'glyph_scenes/5x1000_64_easy',
}


def find_builder(
  name: str,
  *,
  data_dir: str | os.PathLike | None,
  download: bool,
  mock: bool = False,
) -> tfds.core.DatasetBuilder:
  """Returns a builder whose files are there, as ArrayRecord or TFRecord.

  Arguments are those of `open_source`; with `mock` the form of the dataset is
  enough: nothing need be on disk, but tfds must know the name.

  Raises:
    UsageError: if there is no such dataset.
  """
  if mock:
    return _form_of(name)
  if not _is_embedded(name):
    for path in (name, data_dir):
      if '://' in str(path):
        _storage.check_scheme(path)
  if _is_embedded(name):
    builder = _from_directory(_prepare_embedded(name, data_dir))
  elif '://' in name:
    builder = _from_directory(epath.Path(name))
  elif name.startswith(('/', './', '../', '~')):
    builder = _from_directory(pathlib.Path(name).expanduser())
  else:
    builder = _from_name(name, data_dir, download)
  _check_format(builder)
  return builder


def is_tfrecord(builder: tfds.core.DatasetBuilder) -> bool:
  """Whether its files are to be read as TFRecord."""
  remote = '://' in str(builder.data_dir)
  return remote or 'array_record' not in _formats(builder)


def _formats(builder: tfds.core.DatasetBuilder) -> set[str]:
  return {f.value for f in builder.info.available_file_formats()}


def _from_directory(
  directory: pathlib.Path | epath.Path,
) -> tfds.core.DatasetBuilder:
  if '://' in str(directory):
    # tfds and fsspec take what they may not read for what is not there.
    there = _storage.remote_exists(f'{directory}/dataset_info.json')
  else:
    there = _prepare.is_prepared(directory)
  if not there:
    raise UsageError(
      f'{directory} is not a dataset prepared by tfds: it has no '
      'dataset_info.json; expected the directory of a version, such as '
      'mnist/3.0.1'
    )
  try:
    return tfds.builder_from_directory(directory)
  except Exception as error:
    raise UsageError(
      f'{directory} cannot be read: {one_line(error)}'
    ) from error


def _form_of(name: str) -> tfds.core.DatasetBuilder:
  """A builder that knows what examples look like, and has none."""
  base, _, config = name.partition('/')
  if base in EMBEDDED:
    module = importlib.import_module(EMBEDDED[base])  # Registers the builder.
    if config and base in _CONFIGURED:
      name = f'{base}/{module.parse_name(config).name}'
  try:
    with tfds.testing.mock_data():
      return tfds.builder(name)
  except (tfds.core.DatasetNotFoundError, ValueError) as error:
    raise UsageError(
      f'dataset {name!r} cannot be mocked: tfds has no dataset of this name'
    ) from error


def _is_embedded(name: str) -> bool:
  base, slash, _ = name.partition('/')
  return base in (_CONFIGURED if slash else EMBEDDED)


def _prepare_embedded(
  name: str, data_dir: str | os.PathLike | None
) -> pathlib.Path:
  base, slash, config = name.partition('/')
  module = importlib.import_module(EMBEDDED[base])  # Registers the builder.
  if base in _CONFIGURED:
    if slash and not config:
      raise UsageError(
        f'dataset {name!r} needs a config, as in {_CONFIGURED[base]!r}'
      )
    config = module.parse_name(config).name  # The one of its several names.
  where = os.fspath(data_dir or tfds.core.constants.DATA_DIR)
  if '://' in where:
    raise UsageError(
      f'the embedded dataset {base!r} cannot be prepared in {where}: set '
      'data_dir or TFDS_DATA_DIR to a local directory'
    )
  root = pathlib.Path(where).expanduser()
  directory = root / base / config / str(tfds.builder_cls(base).VERSION)
  if not _prepare.is_prepared(directory):
    _prepare.prepare(
      tfds.builder(
        base, config=config or None, data_dir=root, file_format='array_record'
      )
    )
  return directory


def _from_name(
  name: str, data_dir: str | os.PathLike | None, download: bool
) -> tfds.core.DatasetBuilder:
  try:
    base = naming.parse_builder_name_kwargs(name)[0].name
  except ValueError as error:
    raise UsageError(
      f'dataset is {name!r}; expected name, name/config or name:1.2.3, or a '
      'path that starts with /, ./, ../, ~ or gs://'
    ) from error
  if base in EMBEDDED:
    known = f'{base!r}'
    if base in _CONFIGURED:
      known += f' or a config such as {_CONFIGURED[base]!r}'
    raise UsageError(
      f'the embedded dataset {base!r} has no {name!r}; expected {known}'
    )
  if data_dir is not None:
    data_dir = os.path.expanduser(data_dir)
  try:
    # From the files alone: the version that is there, whatever this tfds knows.
    return read_only_builder.builder_from_files(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    if '://' in str(data_dir):
      # Which says so if nothing there may be read.
      _storage.remote_exists(f'{data_dir}/{base}/dataset_info.json')
    if download:
      return _download(name, base, data_dir)
    message = _not_found(name, base, data_dir)
    raise UsageError(message) from error
  except ValueError as error:  # In several data directories at once.
    raise UsageError(one_line(error)) from error
  except Exception as error:
    if '://' not in str(data_dir):
      raise
    raise _storage.refusal(data_dir, error) from error


def _download(
  name: str, base: str, data_dir: str | None
) -> tfds.core.DatasetBuilder:
  try:
    builder = tfds.builder(name, data_dir=data_dir, file_format='array_record')
    builder.download_and_prepare()
  except tfds.core.DatasetNotFoundError as error:
    raise UsageError(_not_found(name, base, data_dir)) from error
  except ImportError as error:
    raise _prepare.missing_package(name, error) from error
  return builder


def _not_found(name: str, base: str, data_dir: str | None) -> str:
  """The one line that says why there is no such dataset, and what to do."""
  known = tfds.list_builders(with_community_datasets=False)
  where = data_dir or tfds.core.constants.DATA_DIR
  if base in known:
    return (
      f'dataset {name!r} is not prepared in {where}: run `tfds build {name} '
      f'--file_format=array_record --data_dir={where}` once (it needs pip '
      'install "maxsup_jax[prepare]"), or in Python call open_source with '
      'download=True'
    )
  close = difflib.get_close_matches(base, [*EMBEDDED, *known], n=3)
  hint = f' (did you mean {" or ".join(close)}?)' if close else ''
  return (
    f'unknown dataset {name!r}{hint}: neither embedded ({", ".join(EMBEDDED)}) '
    f'nor known to tfds nor prepared in {where}'
  )


def _check_format(builder: tfds.core.DatasetBuilder) -> None:
  formats = _formats(builder)
  if '://' in str(builder.data_dir) and 'tfrecord' not in formats:
    raise UsageError(
      f'{builder.data_dir} is prepared as {" and ".join(sorted(formats))}: '
      'only tfrecord can be read remotely; copy it to a local disk'
    )
  if formats.isdisjoint(('array_record', 'tfrecord')):
    raise UsageError(
      f'{builder.data_dir} is prepared as {" and ".join(sorted(formats))}, '
      'which is neither array_record nor tfrecord: run `tfds convert_format '
      f'--dataset_version_dir={builder.data_dir} '
      '--out_file_format=array_record` once'
    )
