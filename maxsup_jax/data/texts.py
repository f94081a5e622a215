"""Labelled texts, as ids of tokens of one length."""

import os
from collections.abc import Sequence

import numpy as np

from maxsup_jax.data import phrases, text
from maxsup_jax.data.sources import ArraySource
from maxsup_jax.errors import UsageError, integer, one_of

SWAPPED = 'swapped_phrases'
LINES = 'lines:'
# What the classes of the generated set are called.
_ORDERS = ('in order', 'swapped')


def is_texts(name: str) -> bool:
  """Whether a name is one of `open_texts`."""
  return name.startswith(LINES) or name.partition('/')[0] == SWAPPED


def open_texts(
  name: str, split: str, num_classes: int | None = None
) -> tuple[Sequence[str], np.ndarray, Sequence[str] | int]:
  """Opens one split of labelled texts that are not in tfds.

  Args:
    name: 'swapped_phrases' or 'swapped_phrases/TRAINxTEST', which are
      generated, see `phrases.swapped`; or 'lines:' and two files, of texts and
      of class ids, see `text.open_pairs`.
    split: 'train' or 'test' of what is generated; as in `open_pairs`.
    num_classes: K of files.

  Returns:
    Texts, labels int32 `[N]`, and the names of the classes or K.
  """
  if name.startswith(LINES):
    if num_classes is None:
      raise UsageError(
        f'num_classes is None; expected how many classes {name} has'
      )
    pairs = text.open_pairs(name, split)
    for i, label in enumerate(pairs.targets, 1):
      if not label.isdecimal():
        raise UsageError(
          f'{pairs.name}: label {i} is {label!r}; expected an integer'
        )
    return pairs.sources, np.array(pairs.targets, np.int32), num_classes
  sizes = phrases.parse_name('phrases' + name.removeprefix(SWAPPED))
  counts = dict(zip(('train', 'test'), sizes))
  one_of('split', split, counts)
  texts, labels = zip(*phrases.swapped(split, counts[split]))
  return texts, np.array(labels, np.int32), _ORDERS


def encoded(
  texts: Sequence[str],
  labels: np.ndarray,
  classes: Sequence[str] | int,
  *,
  name: str,
  length: int,
  kind: str,
  size: int,
  encoder: text.Vocabulary | None,
) -> ArraySource:
  """Texts as ids, int32 `[N, length]`.

  The first `length - 1` tokens of each and the end, `text.EOS`; then padding,
  0. So a text has at least one token, also where it is empty.

  Args:
    texts: N of them.
    labels: integers `[N]`.
    classes: their K names, or K.
    name: for messages.
    length: of all examples.
    kind: 'words' or 'bpe', see `text.make_vocabulary`.
    size: how many ids there may be.
    encoder: the vocabulary; None to learn it from these texts.

  Examples:
    >>> source = encoded(
    ...   ['a b a', '', 'a c a c'], [0, 1, 0], 2,
    ...   name='three', length=4, kind='words', size=5, encoder=None)
    >>> print(np.stack([example['image'] for example in source]))
    [[3 2 3 1]
     [1 0 0 0]
     [3 4 3 1]]
  """
  integer('length', length, 2, 2**14)
  if encoder is None:
    encoder = text.make_vocabulary(kind, size, text.Pairs(name, texts, ()))
  ids = text.Ragged.of(
    [*encoder.encode(one)[:-1][: length - 1], text.EOS] for one in texts
  )
  names = None if isinstance(classes, int) else classes
  return ArraySource(
    ids.padded(np.arange(len(texts)), len(texts), length),
    labels,
    classes if isinstance(classes, int) else len(classes),
    label_names=names,
    name=name,
    encoder=encoder,
  )


def read_vectors(
  path: str | os.PathLike, words: Sequence[str], dim: int
) -> tuple[np.ndarray, np.ndarray]:
  r"""Reads the vectors of some words from a file of GloVe or word2vec.

  Each line has a word and its numbers, with blanks between them; word2vec has
  two numbers in the first line. Lines of other words are only skimmed.

  Args:
    path: of the file, plain text.
    words: what each id stands for, of which there are V.
    dim: the numbers of a vector, D.

  Returns:
    float32 `[V, D]`, 0 for words that the file does not have, and bool `[V]`,
    whether it has them.

  Raises:
    UsageError: for a file of another form, or of none of the words.

  Examples:
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile('w') as file:
    ...   _ = file.write('the 0.5 1\nof 2 3\n')
    ...   _ = file.seek(0)
    ...   read_vectors(file.name, ['of', 'cat'], 2)
    (array([[2., 3.],
           [0., 0.]], dtype=float32), array([ True, False]))
  """
  ids = {word.encode(): i for i, word in enumerate(words)}
  vectors = np.zeros((len(words), dim), np.float32)
  found = np.zeros(len(words), bool)
  try:
    with open(os.path.expanduser(path), 'rb') as file:
      for number, line in enumerate(file, 1):
        # Some words of GloVe have blanks themselves.
        word, *values = line.rstrip().rsplit(b' ', dim)
        if number == 1 and len(line.split()) == 2 != dim + 1:
          continue
        if len(values) != dim or (number == 1 and b' ' in word):
          count = len(line.split()) - 1
          raise UsageError(
            f'{path}: line {number} has {count} numbers; expected {dim}, as '
            'config.model.dim says'
          )
        if word in ids:
          try:
            vectors[ids[word]] = [float(value) for value in values]
          except ValueError:
            raise UsageError(
              f'{path}: line {number} is not a word and {dim} numbers, as '
              'config.model.dim says'
            ) from None
          found[ids[word]] = True
  except OSError as error:
    raise UsageError(f'{path} cannot be read: {error.strerror}') from None
  if not found.any():
    raise UsageError(
      f'{path} has none of the {len(words):,} words of the training texts'
    )
  return vectors, found
