"""`digits`: 1,797 handwritten digits, 8x8 pixels, that scikit-learn ships.

The smallest real dataset: no download, no TensorFlow, prepared in seconds.
Importing this module registers it, so `tfds.builder('digits')` works too.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

_DESCRIPTION = """\
Handwritten digits 0 to 9 of 13 writers, 8x8 grey images: the test part of the
UCI set "Optical Recognition of Handwritten Digits", as scikit-learn ships it.
The 17 grey levels are spread over 0 to 255. In the order of scikit-learn, every
fifth example of each class (its 5th, 10th, 15th, ...) is in the test split.
"""

_CITATION = """\
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
"""


class Digits(tfds.core.GeneratorBasedBuilder):
  """tfds builder of scikit-learn's handwritten digits.

  Splits: `train` (1,442 examples) and `test` (355), stratified by class.
  Features: `image` uint8 [8, 8, 1] (stored as PNG), `label` in [0, 10).
  """

  VERSION = tfds.core.Version('1.0.0')
  # Nothing is downloaded. Without this tfds looks for a file of checksums, for
  # which it needs importlib_resources, a dependency it does not declare.
  url_infos: ClassVar[dict[str, Any]] = {}

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
      homepage='https://archive.ics.uci.edu/dataset/80',
      citation=_CITATION,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # Nothing to download.
    images_NHWC, labels_N, test_N = load_digits()
    return {
      'train': self._generate_examples(images_NHWC, labels_N, ~test_N),
      'test': self._generate_examples(images_NHWC, labels_N, test_N),
    }

  def _generate_examples(
    self, images_NHWC: np.ndarray, labels_N: np.ndarray, chosen_N: np.ndarray
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    import cv2

    for index in np.flatnonzero(chosen_N):
      # Encoded bytes, because tfds encodes arrays with TensorFlow.
      _, png = cv2.imencode('.png', images_NHWC[index])
      yield int(index), {'image': png.tobytes(), 'label': int(labels_N[index])}


def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The digits in scikit-learn's order, and which of them are test examples.

  Returns:
    `images` uint8 [1797, 8, 8, 1], `labels` int64 [1797], `test` bool [1797].

  Examples:
    >>> images, labels, test = load_digits()
    >>> images.shape, labels[:3], int(test.sum())
    ((1797, 8, 8, 1), array([0, 1, 2]), 355)
  """
  import sklearn.datasets

  digits = sklearn.datasets.load_digits()
  # 16 -> 255; the one tie, 8 -> 127.5, goes to 128.
  images_NHWC = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
  labels_N = digits.target
  test_N = np.zeros(len(labels_N), bool)
  for label in range(10):
    test_N[np.flatnonzero(labels_N == label)[4::5]] = True
  return images_NHWC, labels_N, test_N
