"""Datasets, and the batches that training and evaluation read from them."""

from maxsup_jax.data import text as text
from maxsup_jax.data.corruption import CorruptedSource as CorruptedSource
from maxsup_jax.data.label_noise import NoisyLabels as NoisyLabels
from maxsup_jax.data.long_tail import LongTailedSource as LongTailedSource
from maxsup_jax.data.long_tail import (
  long_tailed_counts as long_tailed_counts,
)
from maxsup_jax.data.matching import MatchedLabels as MatchedLabels
from maxsup_jax.data.opening import open_source as open_source
from maxsup_jax.data.pipeline import ImageTransform as ImageTransform
from maxsup_jax.data.pipeline import batch_indices as batch_indices
from maxsup_jax.data.pipeline import eval_batches as eval_batches
from maxsup_jax.data.pipeline import steps_per_epoch as steps_per_epoch
from maxsup_jax.data.pipeline import train_batches as train_batches
from maxsup_jax.data.preprocessing import Transform as Transform
from maxsup_jax.data.preprocessing import parse_transform as parse_transform
from maxsup_jax.data.reading import Batch as Batch
from maxsup_jax.data.reading import BatchIterator as BatchIterator
from maxsup_jax.data.segmentation import LabelMap as LabelMap
from maxsup_jax.data.segmentation import (
  open_segmentation as open_segmentation,
)
from maxsup_jax.data.sources import ArraySource as ArraySource
from maxsup_jax.data.sources import AugmentedSource as AugmentedSource
from maxsup_jax.data.sources import Example as Example
from maxsup_jax.data.sources import Source as Source
from maxsup_jax.data.sources import first_readable as first_readable
from maxsup_jax.data.sources import to_arrays as to_arrays
from maxsup_jax.data.tables import Columns as Columns
from maxsup_jax.data.tables import open_table as open_table
from maxsup_jax.data.taught import TaughtSource as TaughtSource
