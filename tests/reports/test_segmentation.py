"""Pictures of predicted pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from maxsup_jax.data import decoding
from maxsup_jax.errors import UsageError
from maxsup_jax.reports import _style, segmentation


def test_a_prediction_is_read_back_with_its_colours(tmp_path):
  ids = np.random.default_rng(0).integers(0, 20, (5, 7), np.uint8)
  ids[0] = 255
  colors = segmentation.palette(20)
  assert len(np.unique(colors, axis=0)) == 20
  # Pascal VOC's own table: person is 15, tv/monitor 20.
  assert segmentation.palette(21)[[15, 20]].tolist() == [
    [192, 128, 128],
    [0, 64, 128],
  ]
  path = tmp_path / 'a.png'
  segmentation.save(path, ids, colors)
  found, palette = decoding.decode_ids(path.read_bytes())
  np.testing.assert_array_equal(found, ids)
  np.testing.assert_array_equal(palette[:20], colors)
  seen = np.asarray(Image.open(path).convert('RGB'))
  np.testing.assert_array_equal(seen[1:], colors[ids[1:]])
  assert (seen[0] == 255).all()
  with pytest.raises(UsageError, match=r'a.png exists'):
    segmentation.save(path, ids, colors)
  with pytest.raises(UsageError, match='has 3 colours; expected one for the c'):
    segmentation.encode(ids, colors[:3])
  with pytest.raises(UsageError, match=r'int64 \[5, 7\]; expected uint8'):
    segmentation.encode(ids.astype(int), colors)


def test_the_figure_shows_what_it_was_given():
  """Its panels have the colours of the classes, and white where none counts."""
  images = [np.full((8, 10, c), 100, np.uint8) for c in (1, 3)]
  labels = [np.full((8, 10), k, np.uint8) for k in (1, 255)]
  predictions = [np.full((8, 10), k, np.uint8) for k in (2, 0)]
  confidences = [np.full((8, 10), c) for c in (0.5, 1.0)]
  colors = np.array([[9, 0, 0], [0, 90, 0], [0, 0, 200]], np.uint8)
  made = segmentation.figure(
    images,
    labels,
    predictions,
    confidences,
    names=['a', 'b', 'c'],
    colors=colors,
  )
  drawn = [ax.images[0].get_array() for ax in made.axes[:8]]
  for panel, expected in ((1, colors[1]), (2, colors[2]), (6, colors[0])):
    assert (np.asarray(drawn[panel]) == expected).all()
  assert (np.asarray(drawn[5]) == 255).all()
  assert (np.asarray(drawn[3]) == 0.5).all()
  names = {text.get_text() for text in made.legends[0].get_texts()}
  assert names == {'a', 'b', 'c', 'does not count'}
  picture = Image.open(io.BytesIO(_style.png(made)))
  assert min(picture.size) > 500
  with pytest.raises(UsageError, match=r'image 1, .* are \[\[8, 10\], \[8, 9'):
    segmentation.figure(
      images, [labels[0], labels[1][:, 1:]], predictions, confidences
    )
