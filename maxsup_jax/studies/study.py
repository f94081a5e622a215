"""A study: training configurations, seeds, and the claims that they test."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maxsup_jax import errors, tasks
from maxsup_jax.errors import UsageError
from maxsup_jax.studies.claims import Claim
from maxsup_jax.training.config import fields

# A teacher in a variant's configuration that is another variant, of equal seed.
TEACHER = 'variant:'
# What a study can be asked to measure besides the outputs on both splits.
EXTRAS = ('corruptions', 'information')


@dataclasses.dataclass(frozen=True)
class Transfer:
  """The data of the measure `transfer`, see `maxsup_jax.studies.transfer`."""

  dataset: str
  train_split: str = 'train'
  test_split: str = 'test'
  image_size: int | None = None
  channels: int | None = None
  # Of the logistic regression; None for the 45 of the paper.
  strengths: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Run:
  """One training of a study: a variant and a seed."""

  variant: str
  seed: int

  @property
  def name(self) -> str:
    """What commands and directories call it, such as 'ls/seed0'."""
    return f'{self.variant}/seed{self.seed}'


@dataclasses.dataclass(frozen=True)
class Study:
  """What a card of a study returns; nothing is computed yet.

  Attributes:
    name: of the study, for files.
    title: of its page.
    about: a paragraph for the page: which data, which recipe, what it cannot
      tell.
    variants: configurations of `maxsup_jax.tasks`, by name: letters, digits and
      underscores. Their seed is replaced. A `teacher` of `'variant:NAME'` is
      the run of that variant with the same seed.
    seeds: of the runs of each variant.
    claims: what is tested, see `maxsup_jax.studies.claims`.
    transfer: measures linear transfer to these data, unless it is None.
    extras: of `EXTRAS`, what is measured besides.

  Examples:
    >>> from ml_collections import ConfigDict
    >>> from maxsup_jax.studies import claims
    >>> variants = {
    ...   name: ConfigDict({'objective': {'name': name}})
    ...   for name in ('ce', 'ls')
    ... }
    >>> study = Study('mine', 'CE and LS', 'On digits.', variants, (0, 1),
    ...               claims.among(variants))
    >>> [run.name for run in study.runs()]
    ['ce/seed0', 'ls/seed0', 'ce/seed1', 'ls/seed1']
  """

  name: str
  title: str
  about: str
  variants: Mapping[str, ConfigDict]
  seeds: tuple[int, ...]
  claims: tuple[Claim, ...] = ()
  transfer: Transfer | None = None
  extras: tuple[str, ...] = EXTRAS

  def __post_init__(self) -> None:
    if not self.variants or not self.seeds:
      raise UsageError(
        f'study {self.name} has {len(self.variants)} variants and '
        f'{len(self.seeds)} seeds; expected at least one of each'
      )
    for seed in errors.distinct('seeds', self.seeds):
      errors.integer('seeds', seed, 0, 2**32 - 1)
    for extra in self.extras:
      errors.one_of('extras', extra, EXTRAS)
    for name in self.variants:
      if not re.fullmatch(r'\w+', name):
        raise UsageError(
          f'variant {name!r}; expected letters, digits and underscores'
        )
      teacher = self.teacher(name)
      if teacher is not None:
        errors.one_of(f'the teacher of variant {name}', teacher, self.variants)
        if self.teacher(teacher) is not None:
          raise UsageError(
            f'the teacher of variant {name} is {teacher}, which has a teacher '
            'itself; expected one without'
          )
    for claim in self.claims:
      for variant in (claim.variant, claim.baseline):
        errors.one_of(f'claim {claim.name}: variant', variant, self.variants)

  def teacher(self, variant: str) -> str | None:
    """The variant that teaches another one, if any of the study does."""
    teacher = self.variants[variant].get('teacher') or ''
    if not teacher.startswith(TEACHER):
      return None
    return teacher.removeprefix(TEACHER)

  def runs(self, shard: tuple[int, int] = (0, 1)) -> list[Run]:
    """The runs in the order in which they are trained, teachers first.

    Args:
      shard: i and n, for the i-th of n parts, from 0. A student is in the part
        of its teacher, so that parts never wait for each other.
    """
    part, parts = shard
    chains = [
      [Run(v, seed), *(Run(s, seed) for s in self.students(v))]
      for seed in self.seeds
      for v in self.variants
      if self.teacher(v) is None
    ]
    return [run for chain in chains[part::parts] for run in chain]

  def students(self, variant: str) -> list[str]:
    """The variants that a variant teaches."""
    return [v for v in self.variants if self.teacher(v) == variant]

  def run(self, name: str) -> Run:
    """The run of a name."""
    known = {run.name: run for run in self.runs()}
    if name not in known:
      raise errors.unknown(f'run {name!r}', name, known)
    return known[name]

  def config(self, run: Run, workdir: Path) -> ConfigDict:
    """The complete configuration of a run of the study in a directory."""
    config = self.variants[run.variant].copy_and_resolve_references()
    with config.unlocked():
      config.seed = run.seed
      if (teacher := self.teacher(run.variant)) is not None:
        config.teacher = str(directory(workdir, Run(teacher, run.seed)))
    with errors.within(f'variant {run.variant}: '):
      return tasks.resolve(config)

  def measured_with(self, run: Run, workdir: Path) -> str:
    """A digest of all that the measures of a run depend on.

    What has its default is left out, so that a later version, which may have
    more fields, still knows what this one measured.
    """
    complete = self.config(run, workdir)
    defaults = fields(tasks.default_config(complete.task).to_dict())
    config = fields(complete.to_dict())
    given: dict[str, Any] = {
      n: v for n, v in config.items() if n not in defaults or v != defaults[n]
    }
    if self.teacher(run.variant) is not None:
      # Where it lies does not matter, but what it was trained with.
      teacher = Run(str(self.teacher(run.variant)), run.seed)
      given['teacher'] = self.measured_with(teacher, workdir)
    if self.transfer is not None:
      given['transfer'] = {
        n: v
        for n, v in dataclasses.asdict(self.transfer).items()
        if v is not None
      }
    given['extras'] = sorted(self.extras)
    text = json.dumps(given, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def directory(workdir: Path, run: Run) -> Path:
  """The work directory of a run of a study."""
  return workdir.absolute() / 'runs' / run.variant / f'seed{run.seed}'


def parse_shard(text: str) -> tuple[int, int]:
  """Reads a part of the runs, such as '0/3': the first of three.

  Examples:
    >>> parse_shard('2/3')
    (2, 3)
  """
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise UsageError(
      f"shard is {text!r}; expected I/N with I from 0 to N-1, such as '0/3'"
    )
  return int(match[1]), int(match[2])
