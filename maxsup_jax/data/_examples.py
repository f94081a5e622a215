"""The two features of an example that a classifier needs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2


@dataclasses.dataclass(frozen=True)
class Examples(Sequence[dict[str, Any]]):
  """Examples as tfds serialised them, parsed one by one; images stay encoded.

  Attributes:
    records: the serialised examples.
    features: of the dataset.
    image_key: the feature that is the image.
    label_key: the feature that is the label.
  """

  records: Sequence[bytes]
  features: Mapping[str, Any]
  image_key: str
  label_key: str

  def __post_init__(self):
    # Set like this because the class is frozen.
    decoders = {
      key: tfds.decode.SkipDecoding()
      for key, feature in self.features.items()
      if isinstance(feature, tfds.features.Image)
    }
    object.__setattr__(self, '_decoders', decoders or None)
    # tfds parses all features and makes arrays of them: ten times as slow.
    plain = isinstance(self.features[self.image_key], tfds.features.Image)
    label = self.features[self.label_key]
    plain = plain and label.shape == ()
    plain = plain and np.issubdtype(label.np_dtype, np.integer)
    object.__setattr__(self, '_plain', plain)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    """The image, encoded or as an array, and the label, and perhaps more."""
    record = self.records[range(len(self))[index]]
    if not self._plain:
      return self.features.deserialize_example_np(
        record, decoders=self._decoders
      )
    stored = tf_example_pb2.Example.FromString(record).features.feature
    for key in (self.image_key, self.label_key):
      if key not in stored:
        raise KeyError(f'it has no {key!r}')
    (image,) = stored[self.image_key].bytes_list.value
    (label,) = stored[self.label_key].int64_list.value
    return {self.image_key: image, self.label_key: label}
