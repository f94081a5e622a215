import gzip
import itertools

import numpy as np
import pytest

from maxsup_jax.data import text
from maxsup_jax.errors import UsageError


def write(tmp_path, source='a b\nc\n', target='x\ny z\n', ending=''):
  paths = []
  for side, content in (('en', source), ('de', target)):
    if isinstance(content, str):
      content = content.encode()
    path = tmp_path / f'train.{side}{ending}'
    path.write_bytes(gzip.compress(content) if ending == '.gz' else content)
    paths.append(str(path))
  return paths


@pytest.mark.parametrize('ending', ['', '.gz'])
def test_files_whose_lines_belong_together(tmp_path, ending):
  paths = write(tmp_path, '\ufeffa\r\n \nä\u2028b', 'x\ny\nz\n', ending)
  pairs = text.open_pairs('lines:' + ','.join(paths), 'train')
  # A separator of Unicode is no end of a line, an empty side no sentence.
  assert pairs.sources == ('a', 'ä\u2028b')
  assert pairs.targets == ('x', 'z')
  assert pairs.left_out == 1
  name = 'lines:' + ','.join(paths).replace('train', '{split}')
  assert text.open_pairs(name, 'train').targets == pairs.targets
  assert text.open_pairs('phrases', ','.join(paths)).targets == pairs.targets


def test_files_that_cannot_be(tmp_path):
  def refusal(split='train', **content):
    name = 'lines:' + ','.join(write(tmp_path, **content))
    with pytest.raises(UsageError) as error:
      text.open_pairs(name, split)
    assert '\n' not in str(error.value)
    return str(error.value)

  assert 'has 3 lines and' in refusal(source='a\nb\nc\n')
  assert 'line 2 is not UTF-8' in refusal(source='a\nä\n'.encode('latin-1'))
  assert 'no pair' in refusal(source='\n', target='\n')
  assert "split is 'val'" in refusal(split='val')
  assert 'cannot be read' in refusal(split='no.en,no.de')
  (tmp_path / 'cut.gz').write_bytes(gzip.compress(b'a' * 99)[:20])
  with pytest.raises(UsageError, match=r'cut\.gz cannot be read'):
    text.read_lines(tmp_path / 'cut.gz')


def test_tfds_of_text(tmp_path):
  """A data set that is prepared as those of WMT are, without TensorFlow."""
  tfds = pytest.importorskip('tensorflow_datasets')

  class TinyTranslate(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')
    url_infos = {}  # noqa: RUF012

    def _info(self):
      features = tfds.features.Translation(['de', 'en'])
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, _):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i, (en, de) in enumerate([('one', 'eins'), ('two', 'zwei')]):
        yield i, {'en': en, 'de': de}

  from maxsup_jax.data import _prepare

  builder = TinyTranslate(data_dir=tmp_path, file_format='array_record')
  _prepare.prepare(builder)
  pairs = text.open_pairs('tiny_translate', 'train', data_dir=tmp_path)
  assert sorted(zip(pairs.sources, pairs.targets)) == [
    ('one', 'eins'),
    ('two', 'zwei'),
  ]
  with pytest.raises(UsageError, match="language is 'fr'"):
    text.open_pairs(
      'tiny_translate', 'train', data_dir=tmp_path, languages=('fr', 'de')
    )


def test_words():
  pairs = text.Pairs('some', ['b a b', 'c'], ['b c', 'd'])
  words = text.make_vocabulary('words', 6, pairs)
  # The most frequent ones; of equals the first in the alphabet.
  assert words.encode('b c a d') == [3, 4, 5, 2, 1]
  assert words.decode([0, 3, 4, 1, 5]) == 'b c'
  assert len(words) == 6
  with pytest.raises(UsageError, match='vocabulary_size is 100'):
    text.make_vocabulary('words', 100, text.open_pairs('phrases/9x9', 'train'))


def test_what_is_written_is_read(tmp_path):
  words = text.Words(['ä', 'b'])
  path = tmp_path / words.file
  path.write_bytes(words.content())
  assert text.read_vocabulary(path).encode('b ä') == [4, 3, 1]
  for content in ('{}', '[1]', '"'):
    path.write_text(content)
    if content != '{}':
      with pytest.raises(UsageError, match='not a JSON list'):
        text.read_vocabulary(path)


def test_subwords(tmp_path):
  pytest.importorskip('sentencepiece', reason='needs the extra [translation]')
  drawn = text.open_pairs('phrases/500x1', 'train')
  pairs = text.Pairs('drawn', drawn.sources, drawn.targets)
  subwords, again = (text.make_vocabulary('bpe', 200, pairs) for _ in 'ab')
  assert text.digest(subwords) == text.digest(again)
  assert len(subwords) == len(subwords.pieces()) == 200
  assert subwords.pieces()[:3] == ['<pad>', '</s>', '<unk>']
  for sentence in (*pairs.sources[:50], *pairs.targets[:50]):
    ids = subwords.encode(sentence)
    assert ids[-1] == text.EOS
    assert not {text.PAD, text.UNK, text.EOS} & set(ids[:-1])
    assert subwords.decode(ids) == sentence
  # What was never seen has an id, too.
  assert text.UNK in subwords.encode('漢字')
  path = tmp_path / subwords.file
  path.write_bytes(subwords.content())
  read = text.read_vocabulary(path)
  assert text.digest(read) == text.digest(subwords)
  path.write_bytes(b'no model')
  with pytest.raises(UsageError, match='sentencepiece'):
    text.read_vocabulary(path)
  with pytest.raises(UsageError, match='vocabulary_size is 90000'):
    text.make_vocabulary('bpe', 90_000, pairs)


LENGTHS = [(3, 2), (2, 7), (5, 5), (9, 3), (2, 2), (4, 4), (3, 3), (6, 2)]


def encoded(lengths=LENGTHS):
  """Sentences of n tokens n, n + 1, ..."""
  sides = ([np.arange(n, 2 * n) for n in side] for side in zip(*lengths))
  return text.Encoded('made up', *map(text.Ragged.of, sides))


def drawn_batches(epochs=1, start=0, **options):
  buckets = text.Buckets(encoded(), (4, 8), tokens=8)
  batches = text.train_batches(buckets, seed=3, start_step=start, **options)
  count = epochs * len(buckets.batches) - start
  return buckets, list(itertools.islice(batches, count))


def test_every_pair_comes_once_an_epoch():
  buckets, batches = drawn_batches(epochs=2)
  # (2,7), (5,5) and (6,2) are over 4 tokens; (9,3) is over 8.
  assert buckets.too_long == 1
  assert len(buckets.batches) == 5  # 4 / 2 and 3 / 1
  for epoch in (batches[:5], batches[5:]):
    lengths = [
      tuple((row > 0).sum() for row in rows)
      for batch in epoch
      for rows in zip(batch['source'], batch['target'])
    ]
    assert sorted(lengths) == sorted(x for x in LENGTHS if x != (9, 3))
  shapes = {b['source'].shape for b in batches}
  assert shapes == {(2, 4), (1, 8)}
  orders = [
    [b['source'].tobytes() for b in e] for e in (batches[:5], batches[5:])
  ]
  assert orders[0] != orders[1]


def test_batches_are_a_function_of_seed_and_step():
  _, batches = drawn_batches(epochs=3)
  _, resumed = drawn_batches(epochs=3, start=7)
  for a, b in zip(batches[7:], resumed, strict=True):
    np.testing.assert_array_equal(a['target'], b['target'])
  # Two processes have the halves of what one has.
  buckets = text.Buckets(encoded(), (4, 8), tokens=16, multiple=2)
  whole, *halves = (
    list(itertools.islice(text.train_batches(buckets, seed=0, **o), 4))
    for o in (
      {},
      {'process_index': 0, 'process_count': 2},
      {'process_index': 1, 'process_count': 2},
    )
  )
  for a, b, c in zip(whole, *halves):
    joined = np.concatenate([b['source'], c['source']])
    np.testing.assert_array_equal(a['source'], joined)


def test_evaluation_has_every_pair_in_order():
  buckets = text.Buckets(encoded(), (4, 8), tokens=24)
  batches = list(text.eval_batches(buckets))
  assert [b['source'].shape for b in batches] == [(6, 4), (3, 8)]
  first = [(row > 0).sum() for row in batches[0]['source']]
  assert first == [3, 2, 4, 3, 0, 0]


def test_the_truth_is_beside_its_token():
  pairs = text.open_pairs('phrases/5x60', 'test')
  words = text.make_vocabulary('words', 600, pairs)
  data = text.encode(pairs, words, truth=True)
  buckets = text.Buckets(data, (12, 34), tokens=340)
  drawn, uncertain = 0, 0
  for batch in text.eval_batches(buckets):
    real = batch['target'] > 0
    chances = batch['true_probabilities']
    np.testing.assert_allclose(chances.sum(-1), real, atol=1e-6)
    hit = batch['true_ids'] == batch['target'][..., None]
    # What was drawn can be drawn.
    assert ((chances * hit).sum(-1) > 0)[real].all()
    drawn += real.sum()
    uncertain += (chances.max(-1) < 1)[real].sum()
  assert drawn == len(data.target.ids)
  assert 0.2 < uncertain / drawn < 0.4
  assert text.encode(pairs, words).truth is None


def test_wrong_buckets():
  for widths, tokens, wanted in (
    ((8, 4), 8, 'increasing'),
    ((), 8, 'increasing'),
    ((4, 8), 7, 'batch_size is 7 tokens'),
    ((2,), 8, None),
    ((1,), 8, 'buckets is 1'),
  ):
    if wanted is None:
      assert text.Buckets(encoded(), widths, tokens).too_long == 7
    else:
      with pytest.raises(UsageError, match=wanted):
        text.Buckets(encoded(), widths, tokens)
  with pytest.raises(UsageError, match='no pair of at most 2'):
    text.Buckets(encoded([(3, 3)]), (2,), 8)
