"""Linear transfer: what the frozen features of runs tell of another dataset."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maxsup_jax import data, errors
from maxsup_jax.diagnostics.transfer import (
  STRENGTHS,
  LinearProbe,
  linear_probe,
  nearest_neighbours,
)
from maxsup_jax.errors import UsageError
from maxsup_jax.models import create_model
from maxsup_jax.studies.run_names import run_names
from maxsup_jax.tasks import inputs
from maxsup_jax.tasks.config import check_images
from maxsup_jax.tasks.images import normalize
from maxsup_jax.tasks.weights import head_of, load_variables, open_workdir
from maxsup_jax.training.parallel import Devices


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer:
  """How the features of one run do on another dataset."""

  name: str  # the shortest end of its path that tells the runs apart
  objective: str
  step: int
  probe: LinearProbe
  neighbours: float  # accuracy of the 20 nearest neighbours

  def record(self) -> dict[str, Any]:
    """Everything but the weights, for JSON."""
    probe = self.probe
    return {
      'name': self.name,
      'objective': self.objective,
      'step': self.step,
      'accuracy': probe.accuracy,
      'neighbours': self.neighbours,
      'strength': probe.strength,
      'strengths': probe.strengths.tolist(),
      'train_accuracy': probe.train_accuracy.tolist(),
      'held_out_accuracy': probe.held_out_accuracy.tolist(),
    }


def features_of(
  workdir: str | os.PathLike,
  *sources: data.Source,
  step: int | str | None = None,
  weights: str = 'raw',
  batch_size: int = 256,
) -> tuple[int, list[np.ndarray]]:
  """The penultimate features of examples that a run was not trained on.

  The run's own dataset need not be there. Images go through its
  `eval_transform` and its normalisation, on all devices of this process.

  Args:
    workdir: of the run.
    *sources: the examples, one split after the other.
    step: which checkpoint; None for the newest.
    weights: 'raw' or 'ema'.
    batch_size: images at a time.

  Returns:
    The step, and of each source in turn its features, float32 `[N, D]`, and its
    labels, int32 `[N]`.

  Raises:
    UsageError: if there is no such run, or its model cannot see the images.
  """
  directory = open_workdir(workdir)
  config = directory.config()
  check_images(directory)
  step, variables = load_variables(directory, step, weights)
  options = config.model.to_dict()
  classes = head_of(directory, variables)['kernel'].shape[-1]
  model = create_model(options.pop('name'), classes, **options)
  _, transform = inputs.parse_transforms(config)

  def penultimate(variables: Any, batch: Any) -> dict[str, jax.Array]:
    images = normalize(batch['image'], config.dataset.mean, config.dataset.std)
    _, outputs = model.apply(variables, images, train=False)
    return {'features': outputs['penultimate']} | {
      name: batch[name] for name in ('label', 'mask')
    }

  for source in sources:
    inputs.check_channels(config, source)
    shape = inputs.output_shape(source, transform, 'eval_transform')
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
      _, given = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False), variables, image
      )
    except Exception as error:  # Flax's, of parameters of another shape.
      raise UsageError(
        f'the model of {directory.path} cannot see the {list(shape)} images of '
        f'{source.name}: {errors.one_line(error)}'
      ) from None
    if 'penultimate' not in given:
      raise UsageError(
        f"the model of {directory.path} gives no 'penultimate' features"
      )
  devices = Devices(jax.local_devices())
  extract, placed = devices.map(penultimate), devices.replicate(variables)
  arrays: list[np.ndarray] = []
  for source in sources:
    share = -(-min(batch_size, len(source)) // devices.count)
    batches = data.eval_batches(
      source, batch_size=share * devices.count, transform=transform
    )
    parts = []
    for batch in devices.stream(batches):
      found = devices.gather(extract(placed, batch))
      parts.append([found[n][found['mask']] for n in ('features', 'label')])
    arrays += [np.concatenate(rows) for rows in zip(*parts)]
  return step, arrays


def transfer(
  workdirs: Sequence[str | os.PathLike],
  dataset: str,
  *,
  train_split: str = 'train',
  test_split: str = 'test',
  data_dir: str | None = None,
  image_size: int | None = None,
  channels: int | None = None,
  step: int | str | None = None,
  weights: str = 'raw',
  strengths: Sequence[float] = STRENGTHS,
  held_out: float = 0.2,
  seed: int = 0,
) -> list[Transfer]:
  """Fits a linear classifier to the features of each run, see `linear_probe`.

  Args:
    workdirs: of the runs.
    dataset: a name that `data.open_source` knows.
    train_split: what the classifier is fitted to.
    test_split: what it is tested on.
    data_dir: where datasets are prepared; None for the default of tfds.
    image_size: the side that images are resized to; by default that of each
      run's configuration.
    channels: 3 repeats grey images three times; by default likewise.
    step: which checkpoint of each; None for the newest.
    weights: 'raw' or 'ema'.
    strengths: see `linear_probe`; likewise the rest.
    held_out: likewise.
    seed: likewise.

  Raises:
    UsageError: one line, about the first thing that is wrong.
  """
  results = []
  for name, workdir in zip(run_names(workdirs), workdirs):
    config = open_workdir(workdir).config()
    sources = [
      data.open_source(
        dataset,
        split,
        data_dir=data_dir,
        image_size=image_size or config.dataset.image_size,
        channels=channels or config.dataset.channels,
      )
      for split in (train_split, test_split)
    ]
    found, arrays = features_of(workdir, *sources, step=step, weights=weights)
    probe = linear_probe(
      *arrays, strengths=strengths, held_out=held_out, seed=seed
    )
    neighbours = nearest_neighbours(*arrays, neighbours=min(20, len(arrays[0])))
    objective = config.objective.name
    results.append(Transfer(name, objective, found, probe, neighbours))
  return results


def table(results: Sequence[Transfer]) -> str:
  """A line for each run, for people."""
  width = max(3, *(len(r.name) for r in results))
  head = f'{"":{width}}  {"linear":>7}  {"20-NN":>7}  {"strength":>8}'
  return '\n'.join(
    [
      head,
      *(
        f'{r.name:{width}}  {r.probe.accuracy:7.2%}  {r.neighbours:7.2%}  '
        f'{r.probe.strength:8.2g}'
        for r in results
      ),
    ]
  )
