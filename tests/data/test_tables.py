"""Rows of tables as feature vectors, beside scikit-learn."""

import gzip

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from maxsup_jax import data
from maxsup_jax.errors import UsageError

ROWS = [
  *(('31', 'Bonn', '7', 'no'), ('45', 'Köln', '7', 'yes')),
  *(('', 'Bonn', '7', 'no'), ('27', '?', '7', 'yes'), ('60', 'Aue', '7', 'no')),
]


def write(path, rows=ROWS, header='age,town,same,label', separator=','):
  lines = [header.replace(',', separator), *(separator.join(r) for r in rows)]
  path.write_text('\n'.join(lines) + '\n')
  return f'csv:{path}'


def arrays(source):
  return np.stack([source[i]['image'] for i in range(len(source))])


def test_vectors_are_those_of_scikit_learn(tmp_path):
  rng = np.random.default_rng(0)
  numbers = rng.normal(5, 3, (40, 2)) * [1, 1000]
  towns = rng.choice(['a', 'b', 'c'], 40)
  labels = rng.integers(9, 12, 40)
  rows = [
    (repr(float(x)), repr(float(y)), town, str(k))
    for (x, y), town, k in zip(numbers, towns, labels)
  ]
  name = write(tmp_path / 'table.csv', rows, 'x,y,town,k', ';')
  train = data.open_source(name, 'train', label_key='k')
  test = data.open_source(name, 'test', label_key='k', encoder=train.encoder)
  all_rows = data.open_source(name, 'all', label_key='k', encoder=train.encoder)
  assert train.label_names == ('9', '10', '11')
  np.testing.assert_array_equal(all_rows.labels(), labels - 9)
  # The same rows, each in one part: 20% of each class for the test.
  found = arrays(all_rows)
  both = {row.tobytes() for part in (train, test) for row in arrays(part)}
  assert both == {row.tobytes() for row in found}
  np.testing.assert_array_equal(
    np.bincount(test.labels()), np.round(0.2 * np.bincount(labels - 9))
  )
  mine = {row.tobytes() for row in arrays(train)}
  chosen = [i for i, row in enumerate(found) if row.tobytes() in mine]
  scaled = StandardScaler().fit(numbers[chosen]).transform(numbers)
  codes = OneHotEncoder(sparse_output=False).fit_transform(towns[:, None])
  np.testing.assert_allclose(found, np.hstack([scaled, codes]), rtol=1e-5)
  # Keyed by the seed alone; slices are drawn from the same rows.
  other = data.open_source(name, 'train', label_key='k', split_seed=1)
  assert {row.tobytes() for row in arrays(other)} != mine
  kinds = {'label_key': 'k', 'encoder': train.encoder}
  first, second = (
    data.open_source(name, f'train[{part}]', **kinds)
    for part in (':50%', '50%:')
  )
  assert mine == {r.tobytes() for s in (first, second) for r in arrays(s)}
  assert len(first) + len(second) == len(train)


def test_missing_cells_constant_columns_and_new_categories(tmp_path):
  name = write(tmp_path / '{split}.csv')
  write(tmp_path / 'train.csv')
  rows = [('60', 'Ulm', '8', 'yes'), ('NaN', 'Aue', '9', 'no')]
  write(tmp_path / 'val.csv', rows, separator='\t')
  with pytest.warns(UserWarning, match="2 cells are missing, 1 .* 'age'"):
    train = data.open_source(name, 'train')
  assert [c.name for c in train.encoder.columns] == ['age', 'town']
  with pytest.warns(UserWarning, match='1 cells are missing'):
    val = data.open_source(name, 'val', encoder=train.encoder)
  ages = np.array([31, 45, 27, 60])
  expected = [[(60 - ages.mean()) / ages.std(), 0, 0, 0], [0, 1, 0, 0]]
  np.testing.assert_allclose(arrays(val), expected, rtol=1e-6)
  np.testing.assert_array_equal(arrays(train)[2], [0, 0, 1, 0])
  assert val.labels().tolist() == [1, 0]


def test_what_a_run_keeps_gives_the_same_vectors(tmp_path):
  path = tmp_path / 'table.csv'
  name = write(path, [row for row in ROWS if '' not in row and '?' not in row])
  train = data.open_source(name, 'all')
  kept = tmp_path / 'columns.json'
  kept.write_bytes(train.encoder.content())
  assert data.Columns.read(kept) == train.encoder
  path.write_bytes(gzip.compress(b'\xef\xbb\xbfx;label;town;age\n1;no;Aue;60'))
  other = data.open_source(name, 'all', encoder=data.Columns.read(kept))
  np.testing.assert_array_equal(arrays(other)[0], arrays(train)[2])
  kept.write_text('{"columns": 3}')
  with pytest.raises(UsageError, match=r'columns.json cannot be read'):
    data.Columns.read(kept)


@pytest.mark.parametrize(
  ('text', 'options', 'message'),
  [
    ('a,b\n1,x\n2,y\n', {}, "'label' of .*csv; known: a, b"),
    ('a,labels\n1,x\n', {}, "did you mean 'labels'"),
    ('a,a,label\n1,2,x\n', {}, "has 'a' twice"),
    ('a\n1\n', {}, 'has 1 columns; expected a first line'),
    ('', {}, 'has 0 columns'),
    ('a,label\n1,x\n2\n', {}, 'row 2 has 1 cells; expected 2'),
    ('a,label\n1,x\n2,\n', {}, "row 2 has no label in column 'label'"),
    ('a,label\n1,x\n2,x\n', {}, 'has 1 different labels'),
    ('a,label\n1,Yes\n2,yes\n', {}, "'Yes' and 'yes', two spellings of one"),
    ('a,label\n', {}, 'has 0 different labels'),
    ('a,label\n5,x\n5,y\n', {}, 'no column has two values'),
    ('a,label\n1,x\n2,y\n', {'image_size': 8}, 'image_size is 8; csv'),
    ('a,label\n1,x\n2,y\n', {'mock': 8}, 'has rows, not images'),
    ('a,label\n1,x\n2,y\n', {'held_out': 1}, 'held_out is 1'),
    (
      'a,label\n1,x\n2,y\n',
      {'split': 'val'},
      "split is 'val'; .*one of train, test, all",
    ),
    ('a,label\n1,x\n2,y\n', {'split': 'test'}, 'table.csv/test has no rows'),
    (
      'a,label\n' + ''.join(f'r{i},{i % 2}\n' for i in range(1001)),
      {},
      "column 'a' has 1,001 different texts",
    ),
    ('a,label\n1e308,x\n-1e308,y\n', {}, 'cannot be standardised'),
  ],
)
def test_what_is_wrong_is_one_line(tmp_path, text, options, message):
  path = tmp_path / 'table.csv'
  path.write_text(text)
  with pytest.raises(UsageError, match=message) as error:
    data.open_source(f'csv:{path}', **{'split': 'all', **options})
  assert '\n' not in str(error.value)


def test_other_rows_must_be_like_those_of_training(tmp_path):
  good = 'a,town,label\n1,x,no\n2,y,yes\n3,x,no\n'
  path = tmp_path / 'table.csv'
  path.write_text(good)
  name = f'csv:{path}'
  encoder = data.open_source(name, 'all').encoder
  for text, message in (
    ('b,town,label\n1,x,no\n', "no column 'a', which training had"),
    ('a,town,label\ntwo,x,no\n', "row 1 has 'two' in column 'a'"),
    ('a,town,label\ninf,x,no\n', "row 1 has 'inf' in column 'a'"),
    ('a,town,label\n1,x,maybe\n', "has 'maybe' in .* expected one of no, yes"),
  ):
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
      data.open_source(name, 'all', encoder=encoder)
  path.write_bytes('a,label\nK\xf6ln,x\n'.encode('latin-1'))
  with pytest.raises(UsageError, match='is not UTF-8'):
    data.open_source(name, 'all')
  with pytest.raises(UsageError, match=r'no\.csv cannot be read: No such file'):
    data.open_source('csv:no.csv', 'all')
  path.write_text('a;label\n1,5;x\n2,5;y\n3,5;x\n')
  with pytest.warns(UserWarning, match=r"'a' .* row 1 has '1,5', which is not"):
    data.open_source(name, 'all')
  path.write_text('a,label\n1,x\n3+,y\n2,x\n')
  with pytest.warns(UserWarning, match=r"'a' .* row 2 has '3\+', which is not"):
    data.open_source(name, 'all')


def test_parquet_holds_the_same(tmp_path):
  pyarrow = pytest.importorskip('pyarrow')
  from pyarrow import parquet

  path = tmp_path / 'table.parquet'
  columns = {'a': [1.5, 2.5, None], 'b': [True, False, True], 'y': [1, 0, 1]}
  parquet.write_table(pyarrow.table(columns), path)
  with pytest.warns(UserWarning, match='1 cells are missing'):
    source = data.open_source(f'parquet:{path}', 'all', label_key='y')
  expected = [[-1, 0, 1], [1, 1, 0], [0, 0, 1]]
  np.testing.assert_array_equal(arrays(source), expected)
  assert source.labels().tolist() == [1, 0, 1]
  path.write_text('a,y\n')
  with pytest.raises(UsageError, match='cannot be read'):
    data.open_source(f'parquet:{path}', 'all')


def test_features_in_a_file_of_arrays(tmp_path):
  path = tmp_path / 'mine.npz'
  rng = np.random.default_rng(0)
  features = rng.normal(3, 2, (12, 3)).astype(np.float32)
  features[:, 1] = 4  # Constant.
  np.savez(
    path,
    train_features=features[:8],
    train_labels=np.arange(8) % 2,
    test_features=features[8:],
    test_labels=np.arange(4) % 2,
    class_names=['no', 'yes'],
  )
  train = data.open_source(f'npz:{path}', 'train')
  test = data.open_source(f'npz:{path}', 'test', encoder=train.encoder)
  kept = features[:, [0, 2]].astype(np.float64)
  scaler = StandardScaler().fit(kept[:8])
  np.testing.assert_allclose(
    arrays(test), scaler.transform(kept[8:]), rtol=1e-5
  )
  assert test.label_names == ('no', 'yes')
  # Names are those of the file, whose ids may be in another order.
  np.savez(
    path,
    features=features,
    labels=np.arange(12) % 2,
    class_names=['yes', 'no'],
  )
  other = data.open_source(f'npz:{path}', 'all', encoder=train.encoder)
  assert data.MatchedLabels(other, ('no', 'yes'), 2)[0]['label'] == 1
  np.savez(path, features=features[None], labels=np.zeros(1, int))
  with pytest.raises(UsageError, match=r'expected numbers \[N, F\]'):
    data.open_source(f'npz:{path}', 'all')
