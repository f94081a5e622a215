"""A run's configuration: the fields of every task, and how it is completed."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from maxsup_jax import errors
from maxsup_jax.errors import UsageError
from maxsup_jax.training import durations

OPTIMIZERS = ('sgd', 'adamw')
SCHEDULES = (
  *('cosine', 'step', 'exponential', 'linear', 'constant', 'inverse_sqrt'),
)
# Those of maxsup_jax.losses, which takes a second to import.
OBJECTIVES = (
  *('ce', 'ls', 'maxsup', 'regularization_only', 'error_amplification_only'),
  *('zipf', 'adaptive_ls', 'logit_penalty', 'confidence_penalty', 'logit_norm'),
  *('focal', 'mbls', 'acls', 'distillation', 'logit_matching', 'ols'),
)
_DURATIONS = ('duration', 'log_every', 'eval_every', 'checkpoint_every')
# Fields that change how fast a run is, not what it computes.
SPEED_FIELDS = ('dataset.num_threads', 'dataset.workers', 'dataset.in_memory')


def common_fields() -> dict[str, Any]:
  """The fields of every task with their defaults, in their order.

  Durations are written with their unit, such as '90 epochs', '1000 steps' or
  '50000 examples'. A field whose default is None takes the named type or None.
  """
  return {
    'seed': 0,
    'duration': '10 epochs',
    # Examples in one step, over all devices.
    'batch_size': 128,
    # Parts of a device's share that are computed one after the other.
    'accumulate': 1,
    'eval_batch_size': 256,
    # See maxsup_jax.losses.make_objective.
    'objective': {'name': 'maxsup', 'alpha': 0.1},
    # Multiplies what is minimised, not what is reported.
    'loss_scale': 1.0,
    'optimizer': {
      'name': 'sgd',
      'learning_rate': 0.1,
      'weight_decay': 1e-4,
      # What decays: kernel, bias, normalization, embedding; and in which
      # layers, by their names at the top of the model; none named for all.
      'decay': ('kernel',),
      'decay_layers': (),
      # Which layers learn, by the same names; none named for all. Where it is
      # the 'head' of a model of images alone, the others are as in evaluation:
      # a linear probe.
      'train_only': (),
      # The largest global norm of the gradient; None for no clipping.
      'clip_norm': placeholder(float),
      # Clip after the weight decay has joined the gradient (sgd).
      'clip_decayed': False,
      # The largest absolute value in the gradient; None for no clipping.
      'clip_value': placeholder(float),
      'momentum': 0.9,
      'nesterov': True,
      'b1': 0.9,
      'b2': 0.999,
      'eps': 1e-8,
      # Sharpness-aware minimisation: how far to ascend, or None; along the
      # gradient of the global batch, or of each device's part.
      'sam_rho': placeholder(float),
      'sam_synced': True,
    },
    'schedule': {
      'name': 'cosine',
      'warmup': '0 steps',
      'warmup_start': 0.0,
      'end': 0.0,
      # Of 'step' only: durations since the start, and what to multiply by;
      # 'exponential' multiplies by it every epoch.
      'milestones': (),
      'factor': 0.1,
      # A new value every 'step', or that of its first step for an 'epoch'.
      'per': 'step',
      # Where the cosine's clock starts: after the 'warmup' or at the 'start'.
      'cosine_from': 'warmup',
    },
    # Decay per step of averaged weights, evaluated beside the raw ones.
    'ema_decay': placeholder(float),
    # How the decay begins: 'tensorflow', not above (1 + t) / (10 + t) after t
    # steps; None for as it is.
    'ema_warmup': placeholder(str),
    'log_every': '50 steps',
    'eval_every': '1 epoch',
    'checkpoint_every': '1 epoch',
    'keep_checkpoints': 3,
    # Which one stays besides the newest: that with the best evaluation of the
    # averaged weights, or else of the raw ones, such as 'max accuracy' or
    # 'min nll'; None for none.
    'keep_best': placeholder(str),
    # Neural collapse and calibration of both splits, so often and at the end;
    # None for never. It reads the whole training split twice.
    'diagnostics_every': placeholder(str),
  }


def resolve(
  config: Mapping[str, Any],
  defaults: ConfigDict,
  *,
  free_sections: Collection[str] = ('objective',),
) -> ConfigDict:
  """Fills in defaults and refuses unknown fields and bad values.

  Args:
    config: nested fields, as a run card or a work directory's `config.json`
      gives them; those left out take their defaults.
    defaults: every field, see `common_fields`.
    free_sections: sections whose fields depend on their `name`: what is built
      from them checks them.

  Returns:
    A complete, unlocked configuration.

  Raises:
    UsageError: for an unknown field, a value of the wrong type, or one out of a
      range that nothing else checks.
  """
  if isinstance(config, ConfigDict):
    config = config.to_dict()
  if not isinstance(config, Mapping):
    raise UsageError(
      f'config is a {type(config).__name__}; expected a mapping of fields'
    )
  _merge(defaults, config, '', free_sections)
  _check(defaults)
  return defaults


def fields(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """The leaves of a nested mapping, by dotted names.

  Examples:
    >>> fields({'seed': 0, 'model': {'name': 'resnet8'}})
    {'seed': 0, 'model.name': 'resnet8'}
  """
  flat: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping | ConfigDict):
      flat |= fields(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


def differences(
  a: Mapping[str, Any],
  b: Mapping[str, Any],
  form: str = '{0} there, {1} here',
) -> list[str]:
  """Describes the fields that make two runs different, one line each."""
  a, b = (fields(json.loads(to_json(c))) for c in (a, b))
  missing = '(not there)'
  return [
    f'config.{name}: '
    + form.format(repr(a.get(name, missing)), repr(b.get(name, missing)))
    for name in dict.fromkeys([*a, *b])
    if name not in SPEED_FIELDS and a.get(name, missing) != b.get(name, missing)
  ]


def to_json(config: Mapping[str, Any]) -> str:
  """The configuration as JSON, one field a line."""
  if isinstance(config, ConfigDict):
    config = config.to_dict()
  return json.dumps(config, indent=2) + '\n'


def _merge(
  into: ConfigDict,
  given: Mapping[str, Any],
  prefix: str,
  free_sections: Collection[str],
) -> None:
  for name, value in given.items():
    field = prefix + name
    if name not in into:
      raise errors.unknown(
        f'field config.{field}', name, into, prefix=f'config.{prefix}'
      )
    if field in free_sections:
      if not isinstance(value, Mapping) or 'name' not in value:
        raise UsageError(
          f'config.{field} is {value!r}; expected a mapping with a name'
        )
      into[name] = ConfigDict({n: _from_json(v) for n, v in value.items()})
    elif isinstance(into.get_ref(name).get(), ConfigDict):
      if not isinstance(value, Mapping):
        raise UsageError(
          f'config.{field} is {value!r}; expected a mapping of '
          f'{", ".join(into[name])}'
        )
      _merge(into[name], value, f'{field}.', free_sections)
    else:
      value = _from_json(value)
      kind = into.get_type(name)
      if value is None and into[name] is not None:
        raise UsageError(f'config.{field} is None; expected {kind.__name__}')
      try:
        into[name] = value
      except TypeError:
        raise UsageError(
          f'config.{field} is {value!r} ({type(value).__name__}); expected '
          f'{kind.__name__}'
        ) from None


def _from_json(value: Any) -> Any:
  """JSON knows no tuples."""
  return tuple(value) if isinstance(value, list) else value


def _check(config: ConfigDict) -> None:
  """Refuses values out of range that nothing else would see."""
  for field, value in fields(config).items():
    values = value if isinstance(value, tuple) else (value,)
    if any(isinstance(v, float) and not math.isfinite(v) for v in values):
      raise UsageError(f'config.{field} is {value}; expected a finite number')
  for field in (
    'batch_size',
    'accumulate',
    'eval_batch_size',
    'keep_checkpoints',
  ):
    errors.integer(f'config.{field}', config[field], low=1)
  # JAX seeds its generator with 32 bits.
  errors.integer('config.seed', config.seed, low=0, high=2**32 - 1)
  errors.one_of('config.objective.name', config.objective.name, OBJECTIVES)
  optimizer, schedule = config.optimizer, config.schedule
  errors.one_of('config.optimizer.name', optimizer.name, OPTIMIZERS)
  errors.number(
    'config.optimizer.learning_rate', optimizer.learning_rate, above=0
  )
  errors.one_of('config.schedule.name', schedule.name, SCHEDULES)
  for field in _DURATIONS:
    durations.parse(config[field], field=field)
  if config.diagnostics_every is not None:
    durations.parse(config.diagnostics_every, field='diagnostics_every')
  durations.parse(schedule.warmup, field='schedule.warmup')
  for milestone in schedule.milestones:
    durations.parse(milestone, field='schedule.milestones')
  if config.ema_decay is not None:
    errors.number('config.ema_decay', config.ema_decay, low=0, below=1)
  if config.ema_warmup is not None:
    errors.one_of('config.ema_warmup', config.ema_warmup, ('tensorflow',))
    if config.ema_decay is None:
      raise UsageError('config.ema_warmup has no effect without ema_decay')
