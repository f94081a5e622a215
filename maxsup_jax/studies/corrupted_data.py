"""The corrupted test sets of tfds, and how they are read."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from maxsup_jax import data, errors
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
  """A corrupted dataset of tfds.

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

  def dataset(self, corruption: str, severity: int) -> str:
    """The name of one of its datasets."""
    return f'{self.name}/{self.renamed.get(corruption, corruption)}_{severity}'


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


def choose_benchmark(name: str | None, trained_on: Sequence[str]) -> Benchmark:
  """The corrupted dataset of a name, or that of the datasets of the runs.

  Their names may have a version or path. Refused is what has none, or several.
  """
  if name is not None:
    return BENCHMARKS[errors.one_of('dataset', name, BENCHMARKS)]
  found = []
  for dataset in trained_on:
    # Of name:1.2.3, name/config:1.2.3, and the directory of a version.
    parts = {part.split(':')[0] for part in dataset.split('/')}
    matches = [b for b in BENCHMARKS.values() if b.clean in parts]
    if not matches:
      raise UsageError(
        f'dataset: {dataset!r} has no known corrupted version; choose one of '
        f'{", ".join(BENCHMARKS)} if its classes are the same'
      )
    found += matches
  if len(set(map(id, found))) > 1:
    raise UsageError(
      f'the runs were trained on {", ".join(sorted(set(trained_on)))}; '
      'expected one dataset'
    )
  return found[0]


def choose_corruptions(
  given: Sequence[str], benchmark: Benchmark
) -> tuple[str, ...]:
  """The corruptions that are named: by default the 15 standard ones.

  'all' alone has the extra ones, too; names of the benchmark are understood.
  """
  if not given:
    return STANDARD
  if list(given) == ['all']:
    return STANDARD + EXTRA
  known = {name: name for name in STANDARD + EXTRA}
  aliases = {alias: name for name, alias in benchmark.renamed.items()} | known
  for name in given:
    errors.one_of('corruptions', name, aliases)
  return tuple(dict.fromkeys(aliases[name] for name in given))


def check_prepared(
  benchmark: Benchmark,
  corruptions: Iterable[str],
  severities: Sequence[int],
  data_dir: str | None,
  mock: int | None = None,
) -> dict[tuple[str, int], int]:
  """Counts the examples of each dataset, by corruption and severity.

  Refuses, in one line, all that are missing, with the command that prepares
  them. `data_dir` and `mock` are those of `open_source`.
  """
  sizes, missing = {}, []
  for corruption in corruptions:
    for severity in severities:
      name = benchmark.dataset(corruption, severity)
      try:
        source = data.open_source(
          name, benchmark.split, data_dir=data_dir, mock=mock
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
  return data.open_source(
    benchmark.dataset(corruption, severity),
    benchmark.split,
    data_dir=data_dir,
    image_size=dataset.image_size,
    channels=dataset.channels,
    mock=dataset.mock,
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
