import errno
import os

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from maxsup_jax.errors import UsageError
from maxsup_jax.reports.gradcam import (
  Column,
  gradcam_figure,
  normalize,
  save,
)

RED = '#b3261e'


def column(title='run', scale=1.0, zero=False, correct=(True, False, None)):
  maps = scale * np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
  if zero:
    maps[1] = 0
  return Column(
    title=title,
    maps=maps,
    predicted=['cat', 'dog', 'a name that does not fit above a small image'],
    confidence=[0.25, 0.5, 0.999],
    correct=correct,
    explained=['cat', 'cat', 'cat'],
  )


def figure(channels=1, columns=None, **kwargs):
  images = np.zeros((3, 4, 5, channels), np.uint8)
  columns = columns or [column('a'), column('b', 2.0)]
  return gradcam_figure(images, ['#0: cat', '#1', 'x.png'], columns, **kwargs)


def heat(fig, row, column):
  """What is drawn over an image."""
  panels = fig.axes[: 3 * 3]
  return panels[3 * row + column].images[1]


def test_rows_are_images_and_columns_are_networks():
  fig = figure(caption='Said below.')
  panels = fig.axes[:9]
  titles = [ax.get_title() for ax in panels]
  assert titles[::3] == ['#0: cat', '#1', 'x.png']
  assert titles[1] == 'cat 25.0% ✓'
  assert titles[4] == 'dog 50.0% ✗\nevidence for cat'
  assert titles[7] == 'a name that does … 99.9%\nevidence for cat'
  assert panels[4].title.get_color() == RED
  assert [ax.texts[0].get_text() for ax in panels[:3]] == ['image', 'a', 'b']
  assert [len(ax.images) for ax in panels] == [1, 2, 2] * 3
  below = ' '.join(fig.get_supxlabel().split())
  assert 'Said below.' in below
  assert 'each map divided by its own largest value' in below


def test_the_overlay_is_the_map_on_one_scale():
  maps = column().maps
  for normalization in ('map', 'row'):
    fig = figure(normalization=normalization)
    for row in range(3):
      for i, scale in ((0, 1.0), (1, 2.0)):
        top = scale if normalization == 'map' else 2.0
        overlay = heat(fig, row, 1 + i)
        assert overlay.get_clim() == (0, 1)
        np.testing.assert_allclose(
          overlay.get_array(), scale * maps[row] / maps[row].max() / top
        )


def test_a_map_without_evidence():
  fig = figure(columns=[column('a', zero=True), column('b')])
  assert fig.axes[4].get_title() == 'dog 50.0% ✗\nno evidence for cat'
  np.testing.assert_array_equal(heat(fig, 1, 1).get_array(), 0)
  scaled = normalize(np.stack([column().maps, column(zero=True).maps]))
  np.testing.assert_allclose(scaled.max((2, 3)), [[1, 1, 1], [1, 0, 1]])
  # What is smallest is not moved to 0.
  assert scaled[0, 1].min() > 0.4
  with pytest.raises(UsageError, match='expected one of map, row'):
    normalize(scaled, 'figure')


@pytest.mark.parametrize(
  ('suffix', 'channels'), [('.png', 1), ('.svg', 3), ('.PDF', 1)]
)
def test_equal_figures_give_equal_files(tmp_path, suffix, channels):
  files = [tmp_path / f'{i}{suffix}' for i in range(2)]
  for file in files:
    save(figure(channels), file)
  first, second = (f.read_bytes() for f in files)
  assert first == second
  starts = {'.png': b'\x89PNG', '.svg': b'<?xml', '.PDF': b'%PDF'}
  assert first.startswith(starts[suffix])


def test_nothing_overlaps_or_is_cut_off():
  fig = figure(
    columns=[column(f'run {i}') for i in range(3)], caption='x ' * 99
  )
  canvas = FigureCanvasAgg(fig)
  canvas.draw()
  renderer = canvas.get_renderer()
  boxes = [ax.title.get_window_extent(renderer) for ax in fig.axes[:12]]
  boxes += [ax.texts[0].get_window_extent(renderer) for ax in fig.axes[:4]]
  boxes.append(fig._supxlabel.get_window_extent(renderer))
  for i, box in enumerate(boxes):
    assert fig.bbox.x0 <= box.x0 < box.x1 <= fig.bbox.x1
    assert fig.bbox.y0 <= box.y0 < box.y1 <= fig.bbox.y1
    assert not any(box.overlaps(other) for other in boxes[:i] if other.width)


def test_what_is_refused(tmp_path):
  with pytest.raises(UsageError, match=r'x\.jpeg has an unknown ending'):
    save(figure(), tmp_path / 'x.jpeg')
  with pytest.raises(UsageError, match=r'\.png, \.svg, \.pdf'):
    save(figure(), 'figure')
  with pytest.raises(UsageError, match='2 channels'):
    figure(channels=2)
  with pytest.raises(UsageError, match='2 row titles'):
    gradcam_figure(np.zeros((3, 4, 5, 1), np.uint8), ['a', 'b'], [column()])
  with pytest.raises(UsageError, match=r'maps of the shapes \[\(3, 4, 5\)\]'):
    gradcam_figure(np.zeros((3, 4, 4, 1), np.uint8), list('abc'), [column()])


def test_a_full_disk_leaves_the_old_figure(tmp_path, monkeypatch):
  path = tmp_path / 'x.svg'
  path.write_text('old')

  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(UsageError, match='no space is left on the disk'):
    save(figure(), path)
  assert [(p, p.read_text()) for p in tmp_path.iterdir()] == [(path, 'old')]
