"""Labelled texts of tfds, in the form of imdb_reviews."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from maxsup_jax import data
from maxsup_jax.data.texts import read_vectors
from maxsup_jax.errors import UsageError


def test_texts_of_tfds(write_dataset):
  films = ('a good film', 'a bad film , bad', 'A film')
  path = write_dataset(
    {
      'text': tfds.features.Text(),
      'label': tfds.features.ClassLabel(names=['neg', 'pos']),
    },
    {
      'train': [
        {'text': words, 'label': k} for words, k in zip(films, (1, 0, 0))
      ],
      'test': [{'text': 'good film , or not', 'label': 1}],
    },
  )
  given = {'image_key': 'text', 'length': 4, 'vocabulary_size': 7}
  train = data.open_source(str(path), 'train', **given)
  # film, a, bad and the marks; ids go by frequency and then by the word.
  assert train.encoder.words[3:] == ('film', 'a', 'bad', ',')
  ids = [train[i]['image'].tolist() for i in range(3)]
  assert ids == [[4, 2, 3, 1], [4, 5, 3, 1], [2, 3, 1, 0]]
  assert train.labels().tolist() == [1, 0, 0]
  test = data.open_source(str(path), 'test', **given, encoder=train.encoder)
  assert test[0]['image'].tolist() == [2, 3, 6, 1]
  assert (test.label_names, test.image_shape) == (('neg', 'pos'), (4,))
  for changes, message in (
    ({'length': None}, r"'text' of .* is Text; expected an image \(or set le"),
    ({'image_key': 'label'}, "'label' of .* is ClassLabel; expected a text"),
    ({'vocabulary_size': None}, 'vocabulary_size is None'),
  ):
    with pytest.raises(UsageError, match=message):
      data.open_source(str(path), 'train', **{**given, **changes})


def test_vectors_of_words_with_blanks_and_a_first_line(tmp_path):
  path = tmp_path / 'vectors.txt'
  path.write_text('3 2\nother 5 6\n. . 1 2\nfilm -1 2e-1\n')
  vectors, found = read_vectors(path, ['', 'film', '. .', 'new'], 2)
  np.testing.assert_allclose(vectors, [[0, 0], [-1, 0.2], [1, 2], [0, 0]])
  assert found.tolist() == [False, True, True, False]
