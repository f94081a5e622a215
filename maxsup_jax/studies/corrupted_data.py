"""Corrupted test sets, of tfds or as published, and how they are read."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from maxsup_jax import data, errors
from maxsup_jax.data.corruption import CORRUPTIONS
from maxsup_jax.data.folder import open_folder
from maxsup_jax.errors import UsageError

# The names and the order of Hendrycks and Dietterich (2019), Table 1.
STANDARD = (
  *('gaussian_noise', 'shot_noise', 'impulse_noise', 'defocus_blur'),
  *('glass_blur', 'motion_blur', 'zoom_blur', 'snow', 'frost', 'fog'),
  *('brightness', 'contrast', 'elastic_transform', 'pixelate'),
  'jpeg_compression',
)
# Theirs for validation, which benchmarks leave out.
EXTRA = ('gaussian_blur', 'saturate', 'spatter', 'speckle_noise')
# What stands for the images without a corruption, with severity 0.
CLEAN = 'clean'
# Operations that only bring images to the size that a model sees.
_SIZING = r'(resize|resize_exact|center_crop)\b'


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """A corrupted dataset of tfds; others are subclasses.

  Attributes:
    name: its name there.
    clean: the name of the dataset that it was made from.
    split: its only split.
    renamed: what tfds calls a corruption, where that is another name.
  """

  name: str
  clean: str
  split: str
  renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def standard(self) -> tuple[str, ...]:
    """The corruptions that are evaluated unless others are asked for."""
    return STANDARD

  @property
  def extra(self) -> tuple[str, ...]:
    """The others."""
    return EXTRA

  @property
  def of_imagenet(self) -> bool:
    """Whether AlexNet's published errors are for it."""
    return self.clean == 'imagenet2012'

  def dataset(self, corruption: str, severity: int) -> str:
    """The name of one of its datasets."""
    return f'{self.name}/{self.renamed.get(corruption, corruption)}_{severity}'

  def open(
    self,
    corruption: str,
    severity: int,
    *,
    dataset: ConfigDict,
    data_dir: str | None,
  ) -> data.Source:
    """Opens one dataset as config.dataset of a run says its own is read."""
    return data.open_source(
      self.dataset(corruption, severity),
      self.split,
      data_dir=data_dir,
      image_size=dataset.image_size,
      channels=dataset.channels,
      mock=dataset.mock,
    )


class CifarFiles(Benchmark):
  """A directory of CIFAR-10-C or CIFAR-100-C as it is published.

  `NAME.npy` are uint8 `[5 N, 32, 32, 3]`, the five severities in a row;
  `labels.npy` are `[5 N]`.
  """

  def open(
    self,
    corruption: str,
    severity: int,
    *,
    dataset: ConfigDict,
    data_dir: str | None,
  ) -> data.Source:
    """See `Benchmark.open`."""
    images, labels = (self._read(n) for n in (corruption, 'labels'))
    n, rest = divmod(len(images), 5)
    if images.ndim != 4 or images.dtype != np.uint8 or rest or not n:
      raise UsageError(
        f'{self.name}/{corruption}.npy is {images.dtype} '
        f'{list(images.shape)}; expected uint8 [5 N, 32, 32, 3]'
      )
    if labels.dtype.kind not in 'iu' or labels.shape not in ((n,), (5 * n,)):
      raise UsageError(
        f'{self.name}/labels.npy is {labels.dtype} {list(labels.shape)}; '
        f'expected integers [{5 * n}]'
      )
    rows = slice((severity - 1) * n, severity * n)
    return data.ArraySource(
      images[rows],
      labels[rows] if len(labels) > n else labels,
      int(labels.max()) + 1,
      name=f'{self.name}/{corruption}, severity {severity}',
    )

  def _read(self, name: str) -> np.ndarray:
    path = Path(self.name) / f'{name}.npy'
    try:
      return np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
      raise UsageError(f'{path} cannot be read: {errors.one_line(e)}') from None


class ImageNetFolders(Benchmark):
  """A directory of ImageNet-C as it is published, or of its like.

  Images are `CORRUPTION/SEVERITY/CLASS/*`, or `GROUP/CORRUPTION/...`, as the
  archives have them.
  """

  def open(
    self,
    corruption: str,
    severity: int,
    *,
    dataset: ConfigDict,
    data_dir: str | None,
  ) -> data.Source:
    """See `Benchmark.open`."""
    root, end = Path(self.name), f'{corruption}/{severity}'
    found = [
      p for p in (root / end, *sorted(root.glob(f'*/{end}'))) if p.is_dir()
    ]
    if not found:
      raise UsageError(f'{root} has no directory {end}')
    source = open_folder(found[0], 'all', channels=dataset.channels)
    # They are final, so all have the size of the first.
    return dataclasses.replace(source, image_shape=source[0]['image'].shape)


class Own(Benchmark):
  """The evaluation split of a run, corrupted by `data.CorruptedSource`."""

  @property
  def standard(self) -> tuple[str, ...]:
    """All of them."""
    return tuple(CORRUPTIONS)

  @property
  def extra(self) -> tuple[str, ...]:
    """None."""
    return ()

  def open(
    self,
    corruption: str,
    severity: int,
    *,
    dataset: ConfigDict,
    data_dir: str | None,
  ) -> data.Source:
    """See `Benchmark.open`."""
    clean = data.open_source(
      dataset.name,
      dataset.eval_split,
      data_dir=data_dir,
      image_size=dataset.image_size,
      channels=dataset.channels,
      mock=dataset.mock,
    )
    return data.CorruptedSource(clean, corruption, severity)


BENCHMARKS = {
  b.name: b
  for b in (
    Benchmark(
      'cifar10_corrupted',
      'cifar10',
      'test',
      {'glass_blur': 'frosted_glass_blur', 'elastic_transform': 'elastic'},
    ),
    Benchmark('imagenet2012_corrupted', 'imagenet2012', 'validation'),
  )
}


# What stands for `Own`, and the datasets that it is the default of.
OWN = 'own'
_EMBEDDED = ('digits', 'glyphs')


def choose_benchmark(name: str | None, trained_on: Sequence[str]) -> Benchmark:
  """The corrupted dataset of a name, or that of the datasets of the runs.

  Args:
    name: of `BENCHMARKS`; a directory of CIFAR-10-C, CIFAR-100-C or ImageNet-C
      as they are published; 'own' for `Own`; None for that of the datasets.
    trained_on: their names, which may have a version or path.

  Raises:
    UsageError: for a name that is not known, and datasets that have no
      corrupted version, or several.
  """
  if name is not None:
    if name == OWN:
      return Own(OWN, '', '')
    if os.path.isdir(name):
      if os.path.exists(os.path.join(name, 'labels.npy')):
        return CifarFiles(name, 'cifar', 'test')
      return ImageNetFolders(name, 'imagenet2012', 'validation')
    known = (*BENCHMARKS, OWN)
    try:
      return BENCHMARKS[errors.one_of('dataset', name, known)]
    except UsageError as e:
      raise UsageError(f'{e}, or a directory') from None
  found = []
  for dataset in trained_on:
    # Of name:1.2.3, name/config:1.2.3, and the directory of a version.
    parts = {part.split(':')[0] for part in dataset.split('/')}
    matches = [b for b in BENCHMARKS.values() if b.clean in parts]
    if parts & set(_EMBEDDED):
      matches = [Own(OWN, '', '')]
    if not matches:
      raise UsageError(
        f'dataset: {dataset!r} has no known corrupted version; choose one of '
        f'{", ".join(BENCHMARKS)} if its classes are the same, a directory as '
        f'published, or {OWN!r}'
      )
    found += matches
  if len({b.name for b in found}) > 1:
    raise UsageError(
      f'the runs were trained on {", ".join(sorted(set(trained_on)))}; '
      'expected one dataset'
    )
  return found[0]


def choose_corruptions(
  given: Sequence[str], benchmark: Benchmark
) -> tuple[str, ...]:
  """The corruptions that are named: by default the standard ones.

  'all' alone has the extra ones, too; names of the benchmark are understood.
  """
  if not given:
    return benchmark.standard
  every = benchmark.standard + benchmark.extra
  if list(given) == ['all']:
    return every
  known = {name: name for name in every}
  aliases = {alias: name for name, alias in benchmark.renamed.items()} | known
  for name in given:
    errors.one_of('corruptions', name, aliases)
  return tuple(dict.fromkeys(aliases[name] for name in given))


def check_prepared(
  benchmark: Benchmark,
  corruptions: Iterable[str],
  severities: Sequence[int],
  data_dir: str | None,
  dataset: ConfigDict,
) -> dict[tuple[str, int], int]:
  """Counts the examples of each dataset, by corruption and severity.

  Refuses, in one line, all that are missing, with the command that prepares
  them. `data_dir` and `dataset` are those of `open_corrupted`.
  """
  sizes, missing = {}, []
  for corruption in corruptions:
    for severity in severities:
      name = benchmark.dataset(corruption, severity)
      try:
        source = benchmark.open(
          corruption, severity, dataset=dataset, data_dir=data_dir
        )
      except UsageError as error:
        if not isinstance(error.__cause__, tfds.core.DatasetNotFoundError):
          raise
        missing.append(name.split('/')[1])
      else:
        sizes[corruption, severity] = len(source)
  if missing:
    where = data_dir or tfds.core.constants.DATA_DIR
    total = len(missing) + len(sizes)
    raise UsageError(
      f'{len(missing)} of {total} datasets of {benchmark.name} are not '
      f'prepared in {where}: run `for c in {" ".join(missing)}; do tfds build '
      f'{benchmark.name}/$c --file_format=array_record --data_dir={where}; '
      'done` once (it needs pip install "maxsup_jax[prepare]")'
    )
  return sizes


def open_corrupted(
  benchmark: Benchmark,
  corruption: str,
  severity: int,
  *,
  dataset: ConfigDict,
  data_dir: str | None,
) -> data.Source:
  """Opens one dataset as config.dataset of a run says that its own is read."""
  return benchmark.open(
    corruption, severity, dataset=dataset, data_dir=data_dir
  )


def default_transform(
  own: str,
  *,
  clean: tuple[int, ...] | None,
  corrupted: tuple[int, ...] | None,
) -> str | None:
  """The transform of corrupted images, unless the user gives one.

  The images of ImageNet-C are 224x224 and final: scaled or cropped again they
  would show another corruption than the one that they were made with, whatever
  size the run evaluates clean images at.

  Args:
    own: the run's `eval_transform`.
    clean: the shape of the images that it is for; None if they vary.
    corrupted: the shape of the corrupted images.

  Returns:
    None for the run's own; or `own` without what only changes the size, where
    corrupted images have one size and clean ones do not have it.

  Examples:
    >>> own = 'resize(292) | center_crop(256)'
    >>> default_transform(own, clean=None, corrupted=(224, 224, 3))
    ''
  """
  if corrupted is None or clean == corrupted:
    return None
  operations = [o.strip() for o in own.split('|')]
  kept = [o for o in operations if not re.match(_SIZING, o)]
  text = ' | '.join(kept)
  return None if text == own else text
