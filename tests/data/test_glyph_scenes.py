"""Scenes of letters with their labels."""

import hashlib

import numpy as np
import pytest

from maxsup_jax.data import _glyph_pictures, glyph_scenes, open_source


def test_bytes_never_change():
  """Generated once; a change of any bit needs a new version."""
  digest = hashlib.sha256()
  for name in ('', '5x10_32_hard_seed3'):
    for split in ('train', 'test'):
      for index in range(5):
        config = glyph_scenes.parse_name(name)
        for pixels in glyph_scenes.generate(config, split, index):
          digest.update(pixels.tobytes())
  assert digest.hexdigest() == (
    'b20cbe22f4fe78d5bb472477cd4ab20b442060d631f610c65ba1c3f622c6f9e1'
  )


def test_a_label_is_what_was_painted_last(monkeypatch):
  """Without noise and texture, a letter alone has the grey of its label."""
  monkeypatch.setattr(
    _glyph_pictures, '_bar', lambda draws: np.zeros((1, 2, 2))
  )
  flat = _glyph_pictures.Difficulty(
    (0.6, 0.8), 0.06, 0.1, 1.1, 0.05, (200.0, 200.0), 0.0, 0, 0, 0.0
  )
  seen = set()
  for index in range(20):
    image, labels = _glyph_pictures.draw_scene(
      [3, 14], 64, flat, seed=0, split=0, index=index
    )
    grey = image[..., 0].astype(int)
    background = np.bincount(grey.ravel()).argmax()
    strength = np.abs(grey - background) / 200
    # Up to three letters may each cover a quarter of a pixel.
    assert strength[labels == 0].max() < 0.58
    assert strength[(labels > 0) & (labels < 255)].min() >= 0.74
    seen |= set(np.unique(labels).tolist())
  assert seen == {0, 1, 2, 255}


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('glyph_scenes/5x', "such as 'glyph_scenes/5x1000_64_easy'"),
    ('glyph_scenes/63x9', 'num_classes of glyph_scenes is 63; expected'),
    ('glyph_scenes/3x8x4_16', "'label' of .*; expected a class, one integer"),
  ],
)
def test_refused(name, message, tmp_path, refused):
  with refused(message):
    open_source(name, 'train', data_dir=tmp_path)
