"""Pairs of sentences, the vocabularies that make numbers of them, and batches.

Id 0 is padding, 1 the end of every sentence, 2 what the vocabulary lacks.

A batch holds sentences of similar length: `tokens` positions on each side,
padding among them, in one of a handful of shapes. The order of an epoch is a
function of (seed, epoch) alone, as in `pipeline`: the position in the data is
the step.
"""

import collections
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from maxsup_jax.data import phrases
from maxsup_jax.data.pipeline import random_order
from maxsup_jax.data.reading import Batch, BatchIterator, read_ahead
from maxsup_jax.errors import UsageError, integer, one_line, one_of

PAD, EOS, UNK = 0, 1, 2
VOCABULARIES = ('words', 'bpe')
# The streams of random numbers beside those of `pipeline`.
_BATCHES, _MEMBERS = 2, 3


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Sentences and their translations.

  Attributes:
    name: of the data set and the split, for messages.
    sources, targets: texts, line by line.
    left_out: pairs that are not there because a side of them is empty.
    grammar: where the truth is known: what each source stands for.
  """

  name: str
  sources: Sequence[str]
  targets: Sequence[str]
  left_out: int = 0
  grammar: Sequence[phrases.Phrase] | None = None

  def __len__(self) -> int:
    return len(self.sources)


def open_pairs(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike | None = None,
  languages: tuple[str, str] = ('en', 'de'),
) -> Pairs:
  """Opens one split of a data set of translations.

  Args:
    name: 'phrases' or 'phrases/TRAINxTEST', which are generated; 'lines:' and
      two files of UTF-8, plain or gzip, whose lines belong together, such as
      'lines:train.en,train.de', where '{split}' stands for the split; or a name
      of tfds with text features, such as 'wmt_t2t_translate/de-en', that is
      prepared.
    split: 'train' or 'test' of phrases, any name for '{split}', a split of
      tfds. Two files 'a.en,a.de' are a split of their own.
    data_dir: where tfds has prepared data; None for its default.
    languages: the features of tfds, source and target.

  Returns:
    The pairs; those with an empty side are left out and counted.

  Raises:
    UsageError: one line, for what is not there or cannot be read.

  Examples:
    >>> pairs = open_pairs('phrases/20x5', 'test')
    >>> len(pairs), pairs.sources[1], pairs.targets[1]
    (5, ..., ...)
  """
  if name.startswith('lines:') or ',' in split:
    return _files(name.removeprefix('lines:'), split)
  if name.partition('/')[0] == 'phrases':
    sizes = dict(zip(('train', 'test'), phrases.parse_name(name)))
    one_of('split', split, sizes)
    drawn = list(phrases.generate(split, sizes[split]))
    return Pairs(
      f'{name}/{split}',
      [phrase.english for phrase, _ in drawn],
      [german for _, german in drawn],
      grammar=[phrase for phrase, _ in drawn],
    )
  return _tfds(name, split, data_dir, languages)


def read_lines(path: str | os.PathLike) -> list[str]:
  """The lines of a text file, UTF-8, plain or gzip, without their ends.

  Raises:
    UsageError: if it cannot be read, with the line that is not UTF-8.
  """
  return decoded_lines(read_content(path), os.fspath(path))


def read_content(path: str | os.PathLike) -> bytes:
  """The bytes of a file, plain or gzip; a UsageError if it cannot be read."""
  try:
    content = Path(path).expanduser().read_bytes()
    if content[:2] == b'\x1f\x8b':
      content = gzip.decompress(content)
  except (OSError, EOFError, zlib.error) as e:
    reason = getattr(e, 'strerror', None) or one_line(e)
    raise UsageError(f'{os.fspath(path)} cannot be read: {reason}') from None
  return content


def decoded_lines(content: bytes, name: str) -> list[str]:
  """Likewise, of bytes; their `name` is for messages."""
  lines = content.removeprefix(b'\xef\xbb\xbf').split(b'\n')
  if not lines[-1]:
    lines.pop()
  texts = []
  for number, line in enumerate(lines, 1):
    try:
      texts.append(line.decode().strip())
    except UnicodeDecodeError:
      raise UsageError(
        f'{name}: line {number} is not UTF-8; convert the file, as with iconv'
      ) from None
  return texts


def _files(name: str, split: str) -> Pairs:
  paths = split if ',' in split else name.replace('{split}', split)
  if ',' not in split and '{split}' not in name and split != 'train':
    raise UsageError(
      f'split is {split!r}, but dataset has no {{split}}; expected two files, '
      'such as val.en,val.de'
    )
  both = paths.split(',')
  if len(both) != 2:
    raise UsageError(f'dataset is {paths!r}; expected two files, SOURCE,TARGET')
  lines = [read_lines(path) for path in both]
  counts = [len(side) for side in lines]
  if counts[0] != counts[1]:
    raise UsageError(
      f'{both[0]} has {counts[0]:,} lines and {both[1]} {counts[1]:,}; '
      'expected as many'
    )
  return _without_empty(paths, zip(*lines))


def _tfds(
  name: str,
  split: str,
  data_dir: str | os.PathLike | None,
  languages: tuple[str, str],
) -> Pairs:
  # Otherwise tfds does not know the names of these data sets.
  import tensorflow_datasets.translate  # noqa: F401

  from maxsup_jax.data import _builders, _tfds_source

  builder = _builders.find_builder(name, data_dir=data_dir, download=False)
  for language in languages:
    if language not in builder.info.features:
      raise UsageError(
        f'language is {language!r}; expected a feature of {name}: '
        f'{", ".join(sorted(builder.info.features))}'
      )
  examples = _tfds_source.examples_of(builder, name, split, *languages, None)
  texts = (
    tuple(example[language].decode().strip() for language in languages)
    for example in (examples[i] for i in range(len(examples)))
  )
  return _without_empty(f'{name}/{split}', texts)


def _without_empty(name: str, pairs: Iterable[tuple[str, ...]]) -> Pairs:
  every = list(pairs)
  kept = [pair for pair in every if all(pair)]
  if not kept:
    raise UsageError(f'{name} has no pair of lines that are not empty')
  sources, targets = zip(*kept)
  return Pairs(name, sources, targets, len(every) - len(kept))


class Vocabulary(Protocol):
  """Texts as ids and back."""

  # What `content` is called in a directory.
  file: str

  def __len__(self) -> int: ...

  def encode(self, text: str) -> list[int]:
    """The ids of a text, `EOS` last."""

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids, up to `EOS`."""

  def pieces(self) -> list[str]:
    """What each id stands for, to show."""

  def content(self) -> bytes:
    """The vocabulary itself, for a file."""


def digest(vocabulary: Vocabulary) -> str:
  """SHA-256 of what a vocabulary consists of, in hexadecimal."""
  return hashlib.sha256(vocabulary.content()).hexdigest()


class Words:
  """Words and marks, each with an id; what is missing is `UNK`.

  Args:
    words: in the order of their ids, from 3.

  Examples:
    >>> words = Words(['halb', 'vier'])
    >>> words.encode('halb vier , fünf'), words.decode([4, 2, 1, 0])
    ([3, 4, 2, 2, 1], 'vier <unk>')
  """

  file = 'vocabulary.json'

  def __init__(self, words: Sequence[str]):
    self.words = ('', '', '<unk>', *words)
    self._ids = {word: i for i, word in enumerate(words, UNK + 1)}

  def __len__(self) -> int:
    return len(self.words)

  def encode(self, text: str) -> list[int]:
    """See `Vocabulary`."""
    found = phrases.TOKEN.findall(text)
    return [*(self._ids.get(word, UNK) for word in found), EOS]

  def decode(self, ids: Sequence[int]) -> str:
    """See `Vocabulary`; spaces stand between all words."""
    return ' '.join(filter(None, (self.words[i] for i in until_eos(ids))))

  def pieces(self) -> list[str]:
    """See `Vocabulary`."""
    return ['<pad>', '</s>', *self.words[UNK:]]

  def content(self) -> bytes:
    """See `Vocabulary`."""
    return json.dumps(self.words[UNK + 1 :], ensure_ascii=False).encode()


class Subwords:
  """Pieces of words of sentencepiece.

  Args:
    model: what sentencepiece has trained.
  """

  file = 'vocabulary.model'

  def __init__(self, model: bytes):
    self._model = model
    try:
      self._processor = _sentencepiece().SentencePieceProcessor(
        model_proto=model
      )
    except (RuntimeError, OSError) as e:
      raise UsageError(
        f'the vocabulary is not a model of sentencepiece: {one_line(e)}'
      ) from None
    p = self._processor
    if (p.pad_id(), p.eos_id(), p.unk_id()) != (PAD, EOS, UNK):
      raise UsageError(
        'the ids of padding, end and unknown pieces of the vocabulary are '
        f'{p.pad_id()}, {p.eos_id()} and {p.unk_id()}; expected 0, 1 and 2'
      )

  def __len__(self) -> int:
    return int(self._processor.get_piece_size())

  def encode(self, text: str) -> list[int]:
    """See `Vocabulary`."""
    return [*self._processor.encode(text), EOS]

  def decode(self, ids: Sequence[int]) -> str:
    """See `Vocabulary`."""
    return str(self._processor.decode(list(until_eos(ids))))

  def pieces(self) -> list[str]:
    """See `Vocabulary`."""
    return [self._processor.id_to_piece(i) for i in range(len(self))]

  def content(self) -> bytes:
    """See `Vocabulary`."""
    return self._model


def until_eos(ids: Iterable[int]) -> Iterator[int]:
  """The ids before the first `EOS`, without padding."""
  for i in ids:
    if i == EOS:
      return
    if i != PAD:
      yield int(i)


def _sentencepiece() -> Any:
  try:
    import sentencepiece
  except ImportError:
    raise UsageError(
      'subwords need sentencepiece: pip install "maxsup_jax[translation]"'
    ) from None
  return sentencepiece


def make_vocabulary(kind: str, size: int, pairs: Pairs) -> Vocabulary:
  """Learns a vocabulary that both languages share; the same every time.

  Args:
    kind: 'words', the most frequent ones, or 'bpe', byte-pair encoding by
      sentencepiece. Of phrases the words are all those of the grammar.
    size: how many ids there may be.
    pairs: to learn from.

  Raises:
    UsageError: for a size that cannot be.

  Examples:
    >>> pairs = Pairs('two', ['a b'], ['b c b'])
    >>> make_vocabulary('words', 5, pairs).encode('a b c')
    [4, 3, 2, 1]
  """
  one_of('vocabulary', kind, VOCABULARIES)
  integer('vocabulary_size', size, UNK + 2, 2**24)
  texts = (*pairs.sources, *pairs.targets)
  if kind == 'bpe':
    model = io.BytesIO()
    try:
      _sentencepiece().SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type='bpe',
        vocab_size=size,
        character_coverage=1.0,
        pad_id=PAD,
        eos_id=EOS,
        unk_id=UNK,
        bos_id=-1,
        # Of one thread the file is the same every time, not only the pieces.
        num_threads=1,
        max_sentence_length=2**16,
        minloglevel=2,
      )
    except (RuntimeError, OSError) as e:
      raise UsageError(
        f'vocabulary_size is {size}; sentencepiece refuses it: '
        f'{one_line(e).rpartition("] ")[2]}'
      ) from None
    return Subwords(model.getvalue())
  if pairs.grammar is not None:
    words: Sequence[str] = phrases.vocabulary()
    if size < len(words) + UNK + 1:
      raise UsageError(
        f'vocabulary_size is {size}; expected at least {len(words) + UNK + 1}, '
        'the words of phrases'
      )
  else:
    counts = collections.Counter(
      word for text in texts for word in phrases.TOKEN.findall(text)
    )
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    words = ranked[: size - UNK - 1]
  return Words(words)


def read_vocabulary(path: str | os.PathLike) -> Vocabulary:
  """Reads what `Vocabulary.content` gave, by the ending of its name."""
  path = Path(path)
  try:
    content = path.read_bytes()
  except OSError as e:
    raise UsageError(f'{path} cannot be read: {e.strerror}') from None
  if path.suffix == '.model':
    return Subwords(content)
  try:
    words = json.loads(content)
    if not all(isinstance(word, str) for word in words):
      raise ValueError
  except (ValueError, TypeError):
    raise UsageError(f'{path} is not a JSON list of words') from None
  return Words(words)


class Ragged(NamedTuple):
  """Sequences of ids, one after the other.

  Attributes:
    ids: int32 `[M]`, all of them.
    starts: int64 `[N + 1]`, where each begins and the last ends.
  """

  ids: np.ndarray
  starts: np.ndarray

  @classmethod
  def of(cls, sequences: Iterable[Sequence[int] | np.ndarray]) -> 'Ragged':
    """Joins sequences."""
    parts = [np.asarray(ids, np.int32) for ids in sequences]
    lengths = [len(part) for part in parts]
    ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return cls(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

  @property
  def lengths(self) -> np.ndarray:
    """The length of each, `[N]`."""
    return np.diff(self.starts)

  def chosen(self, rows: np.ndarray) -> 'Ragged':
    """Some of them."""
    return Ragged.of(
      self.ids[self.starts[r] : self.starts[r + 1]] for r in rows
    )

  def padded(self, rows: np.ndarray, count: int, width: int) -> np.ndarray:
    """Some of them with zeros behind and below, int32 `[count, width]`."""
    found = np.zeros((count, width), np.int32)
    for at, row in enumerate(rows):
      ids = self.ids[self.starts[row] : self.starts[row + 1]]
      found[at, : len(ids)] = ids
    return found


class Truth(NamedTuple):
  """The distribution of every target token, where it is known.

  Attributes:
    ids: int32 `[M, C]`, the tokens that may stand there, 0 for no more.
    probabilities: float32 `[M, C]`, 0 for no more.
  """

  ids: np.ndarray
  probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Pairs as ids.

  Attributes:
    name: for messages.
    source, target: N sequences each, every one ends in `EOS`.
    truth: of the target's tokens, one after the other; None if unknown.
  """

  name: str
  source: Ragged
  target: Ragged
  truth: Truth | None = None

  def __len__(self) -> int:
    return len(self.source.starts) - 1

  @functools.cached_property
  def lengths(self) -> np.ndarray:
    """The longer side of each pair, `[N]`."""
    return np.maximum(self.source.lengths, self.target.lengths)


def encode(
  pairs: Pairs, vocabulary: Vocabulary, *, truth: bool = False
) -> Encoded:
  """Makes numbers of pairs.

  Args:
    pairs: texts.
    vocabulary: what they consist of.
    truth: whether to add the distribution of each token, of phrases in words.
  """
  known = None
  if truth and pairs.grammar is not None and isinstance(vocabulary, Words):
    known = _truth(pairs, vocabulary)
  return Encoded(
    pairs.name,
    Ragged.of(vocabulary.encode(text) for text in pairs.sources),
    Ragged.of(vocabulary.encode(text) for text in pairs.targets),
    known,
  )


def _truth(pairs: Pairs, vocabulary: Words) -> Truth:
  rows = []
  for phrase, target in zip(pairs.grammar or (), pairs.targets):
    tokens = phrases.TOKEN.findall(target)
    # No word is empty.
    for shares in phrases.next_tokens(phrase.wordings(), tokens, ''):
      ids = [vocabulary.encode(word)[0] for word in shares]
      rows.append((ids, list(shares.values())))
  most = max(len(ids) for ids, _ in rows)
  found = Truth(
    np.zeros((len(rows), most), np.int32),
    np.zeros((len(rows), most), np.float32),
  )
  for at, (ids, chances) in enumerate(rows):
    found.ids[at, : len(ids)] = ids
    found.probabilities[at, : len(ids)] = chances
  return found


@dataclasses.dataclass(frozen=True)
class Buckets:
  """Which batches an epoch of pairs consists of.

  Of each width the pairs go into batches of as many rows as `tokens` has room
  for; the last one is filled up with empty rows. So an epoch has every pair
  once, but for those that are longer than the last width.

  Attributes:
    data: the pairs.
    widths: increasing; a pair goes to the first that its longer side fits into.
    tokens: positions of a batch on each side, at most.
    multiple: of which the number of rows is one.
  """

  data: Encoded
  widths: tuple[int, ...]
  tokens: int
  multiple: int = 1

  def __post_init__(self) -> None:
    widths = tuple(integer('buckets', w, 2, 2**14) for w in self.widths)
    if not widths or list(widths) != sorted(set(widths)):
      raise UsageError(f'buckets are {widths}; expected increasing widths')
    if self.rows(len(widths) - 1) < 1:
      raise UsageError(
        f'batch_size is {self.tokens} tokens; expected at least '
        f'{widths[-1] * self.multiple}: {self.multiple} sentences of '
        f'{widths[-1]}'
      )
    if not self.batches:
      raise UsageError(
        f'{self.data.name} has no pair of at most {widths[-1]} tokens'
      )

  def rows(self, bucket: int) -> int:
    """Rows of a batch."""
    rows = self.tokens // self.widths[bucket]
    return rows // self.multiple * self.multiple

  @functools.cached_property
  def members(self) -> list[np.ndarray]:
    """The pairs of each bucket, in their order."""
    of_N = np.searchsorted(self.widths, self.data.lengths)
    return [np.flatnonzero(of_N == b) for b in range(len(self.widths))]

  @functools.cached_property
  def batches(self) -> list[tuple[int, int]]:
    """Bucket and number of each batch of an epoch, in order."""
    return [
      (bucket, number)
      for bucket, members in enumerate(self.members)
      for number in range(-(-len(members) // self.rows(bucket)))
    ]

  @property
  def too_long(self) -> int:
    """How many pairs do not fit into any bucket."""
    return len(self.data) - sum(map(len, self.members))

  def batch(
    self,
    bucket: int,
    members: np.ndarray,
    process_index: int,
    process_count: int,
  ) -> Batch:
    """One process's rows of a batch: `source`, `target`, perhaps the truth."""
    count, width = self.rows(bucket) // process_count, self.widths[bucket]
    mine = members[process_index * count : (process_index + 1) * count]
    data = self.data
    batch = {
      'source': data.source.padded(mine, count, width),
      'target': data.target.padded(mine, count, width),
    }
    if data.truth is not None:
      for name, values in data.truth._asdict().items():
        shape = (count, width, values.shape[1])
        batch[f'true_{name}'] = np.zeros(shape, values.dtype)
        for at, row in enumerate(mine):
          start, end = data.target.starts[row : row + 2]
          batch[f'true_{name}'][at, : end - start] = values[start:end]
    return batch


# Of the batches and of each bucket, also where reading ahead is in the next
# epoch.
_order = functools.lru_cache(maxsize=16)(random_order)


@dataclasses.dataclass(frozen=True)
class _Load:
  buckets: Buckets
  process: tuple[int, int]
  seed: int | None = None

  def __call__(self, step: int) -> Batch:
    buckets, epoch, at = self.buckets, 0, step
    if self.seed is not None:
      epoch, place = divmod(step, len(buckets.batches))
      order = _order(len(buckets.batches), self.seed, epoch, _BATCHES)
      at = int(order[place])
    bucket, number = buckets.batches[at]
    members = buckets.members[bucket]
    if self.seed is not None:
      stream = _MEMBERS + bucket
      members = members[_order(len(members), self.seed, epoch, stream)]
    rows = buckets.rows(bucket)
    chosen = members[number * rows : (number + 1) * rows]
    return buckets.batch(bucket, chosen, *self.process)


def train_batches(
  buckets: Buckets,
  *,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> BatchIterator:
  """Endless batches for training, a pure function of (seed, step).

  Every epoch draws anew which pairs of a bucket share a batch, and the order of
  the batches of all buckets.

  Args:
    buckets: of the training pairs.
    seed: chooses the orders.
    start_step: the step of the first batch.
    process_index: p; of each batch it gets the rows `[p * b, (p + 1) * b)`.
    process_count: the number of processes.
  """
  load = _Load(buckets, (process_index, process_count), seed)
  return read_ahead(load, range(start_step, sys.maxsize), num_threads=1)


def eval_batches(
  buckets: Buckets, *, process_index: int = 0, process_count: int = 1
) -> BatchIterator:
  """Every pair once, bucket by bucket, each in the order of the data."""
  load = _Load(buckets, (process_index, process_count))
  return read_ahead(load, range(len(buckets.batches)), num_threads=1)
