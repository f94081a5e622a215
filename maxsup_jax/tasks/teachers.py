"""The frozen run that a student learns from."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maxsup_jax import data, errors, outputs
from maxsup_jax.errors import UsageError
from maxsup_jax.losses import Objective
from maxsup_jax.models import create_model
from maxsup_jax.tasks import inputs
from maxsup_jax.tasks.weights import head_of, load_variables, open_workdir


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A trained classifier that gives its logits in the steps of another.

  Attributes:
    model: a module of `maxsup_jax.models`.
    variables: its weights, host arrays.
    scale: what takes the student's normalised images to the teacher's.
    shift: likewise: `scale * images + shift`.
  """

  model: nn.Module
  variables: Mapping[str, Any]
  scale: tuple[float, ...]
  shift: tuple[float, ...]

  def logits(self, variables: Mapping[str, Any], images: jax.Array) -> Any:
    """Logits `[B, K]` in evaluation mode, without a gradient.

    Args:
      variables: those of the teacher, on the device.
      images: as the student sees them, augmented, mixed and normalised.
    """
    if set(self.scale) != {1.0} or set(self.shift) != {0.0}:
      images = images * jnp.float32(self.scale) + jnp.float32(self.shift)
    logits, _ = self.model.apply(variables, images, train=False)
    return jax.lax.stop_gradient(logits)

  def beside(self, objective: Objective) -> Objective:
    """The objective with the teacher's weights in its state.

    So they are arguments of the step, not constants of the program, and are
    saved with the student: a run that resumes has the same teacher.
    """
    return objective._replace(init=lambda: (objective.init(), self.variables))


def open_teacher(
  path: str | os.PathLike,
  config: ConfigDict,
  num_classes: int,
  form: jax.ShapeDtypeStruct,
  kept: Mapping[str, bytes],
) -> Teacher:
  """Opens the run that `config.teacher` names, and its newest checkpoint.

  Args:
    path: of its work directory.
    config: of the student.
    num_classes: of the student.
    form: of the student's inputs, see `ImageTask.form`.
    kept: what the student's directory will hold, of which the teacher's must
      hold the same.

  Raises:
    UsageError: if there is no such run, or it is for other classes or images.
  """
  with errors.within('config.teacher: '):
    directory = open_workdir(path)
    own = directory.config()
    _, variables = load_variables(directory, weights=config.teacher_weights)
    head = head_of(directory, variables)['kernel']
    if head.shape[-1] != num_classes:
      raise UsageError(
        f'{directory.path} has {head.shape[-1]} classes; the student has '
        f'{num_classes}'
      )
    floats = [inputs.parse_transforms(c)[0].gives_floats for c in (own, config)]
    if floats[0] != floats[1]:
      raise UsageError(
        f'{directory.path} and the student see pixels of different scales; '
        "'standardize' must be in the transforms of both or neither"
      )
    for name, content in kept.items():
      path = directory.path / name
      if not path.exists() or path.read_bytes() != content:
        raise UsageError(
          f'{directory.path} does not see what the student sees: its {name} is '
          'another; train both on the same rows or texts'
        )
    options = own.model.to_dict()
    teacher = Teacher(
      create_model(options.pop('name'), num_classes, **options),
      variables,
      *((1.0,), (0.0,)) if floats[0] else _rescaling(own, config),
    )
    try:
      jax.eval_shape(teacher.logits, variables, form)
    except UsageError:
      raise
    except Exception as error:  # Flax's, of parameters of another shape.
      raise UsageError(
        f'{directory.path} cannot see inputs of {list(form.shape[1:])}: '
        f'{errors.one_line(error)}'
      ) from None
    return teacher


def is_stored(config: ConfigDict) -> bool:
  """Whether the teacher is a file of its outputs."""
  return config.teacher is not None and config.teacher.endswith('.npz')


def with_teacher(source: data.Source, config: ConfigDict) -> data.TaughtSource:
  """The training examples with the logits of the file `config.teacher`.

  Raises:
    UsageError: if the file is not of these examples, or does not go with the
      rest of the configuration.
  """
  if config.mixing.mixup or config.mixing.cutmix:
    raise UsageError(
      f'config.teacher is {config.teacher}; its logits are of whole images: '
      'config.mixing needs a work directory for a teacher'
    )
  with errors.within(f'config.teacher: {config.teacher}: '):
    return data.TaughtSource(
      source, outputs.read_logits(config.teacher), config.teacher_top_k
    )


def _rescaling(
  teacher: ConfigDict, student: ConfigDict
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """What undoes one normalisation and does another, for each channel."""
  C = max(
    len(config.dataset[name])
    for config in (teacher, student)
    for name in ('mean', 'std')
  )
  means, stds = (
    [
      tuple(config.dataset[name]) * (C if len(config.dataset[name]) == 1 else 1)
      for config in (student, teacher)
    ]
    for name in ('mean', 'std')
  )
  scale = tuple(a / b for a, b in zip(*stds))
  shift = tuple((a - b) / s for a, b, s in zip(*means, stds[1]))
  return scale, shift
