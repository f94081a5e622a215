"""The fields of a run's configuration, their defaults and their checks."""

import json
import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from maxsup_jax.errors import UsageError

# Sections whose fields depend on their `name`: the model and the objective
# check them themselves.
FREE_SECTIONS = ('model', 'objective')
AT_LEAST_ONE = (
  'batch_size',
  'eval_batch_size',
  'keep_checkpoints',
  'dataset.num_classes',
  'dataset.image_size',
  'dataset.channels',
  'dataset.repeats',
  'dataset.mock',
)
AT_LEAST_ZERO = (
  'schedule.warmup_start',
  'schedule.end',
  'mixing.mixup',
  'mixing.cutmix',
)
MORE_THAN_ZERO = (
  'optimizer.eps',
  'optimizer.clip_value',
  'optimizer.sam_rho',
  'schedule.factor',
  'loss_scale',
)
PROBABILITIES = ('mixing.probability', 'mixing.switch')
CHOICES = {
  'batch_norm': ('cross_device', 'per_device'),
  'mixing.mode': ('batch', 'pair'),
  'schedule.per': ('step', 'epoch'),
  'schedule.cosine_from': ('warmup', 'start'),
}
# Fields that change how fast a run is, not what it computes.
SPEED_FIELDS = ('dataset.num_threads', 'dataset.workers', 'dataset.in_memory')


def default_config() -> ConfigDict:
  """Every field with its default. Run cards start from this.

  Durations are written with their unit, such as '90 epochs', '1000 steps' or
  '50000 examples'. A field whose default is None takes the named type or None.

  Examples:
    >>> config = default_config()
    >>> config.optimizer.learning_rate
    0.1
  """
  return ConfigDict(
    {
      'seed': 0,
      'duration': '10 epochs',
      # Examples in one step, over all devices.
      'batch_size': 128,
      'eval_batch_size': 256,
      'dataset': {
        # A name of tfds or of maxsup_jax.data, or a prepared directory.
        'name': 'digits',
        'train_split': 'train',
        'eval_split': 'test',
        'image_key': 'image',
        'label_key': 'label',
        # Only where the dataset does not say it: labels that are plain ints.
        'num_classes': placeholder(int),
        # Side of the square that images are resized to as they are read, before
        # any transform; None leaves them.
        'image_size': placeholder(int),
        # 3 repeats grey images three times; None leaves them.
        'channels': placeholder(int),
        # Per channel, or one number for all, of images in [0, 1].
        'mean': (0.0,),
        'std': (1.0,),
        # Operations on every image, such as 'pad_and_crop(4) | flip'; see
        # maxsup_jax.data.parse_transform. Both must end with one size.
        'train_transform': '',
        'eval_transform': '',
        # Repeated augmentation: how often an image comes in an epoch.
        'repeats': 1,
        # Long-tailed training: examples of the last class for each one of the
        # first, such as 0.01; None keeps all.
        'imbalance': placeholder(float),
        # So many random examples in the form of the dataset, to try things out.
        'mock': placeholder(int),
        # Decode the whole dataset once and keep it in memory.
        'in_memory': False,
        # See maxsup_jax.data.train_batches; None chooses.
        'num_threads': placeholder(int),
        'workers': 0,
      },
      # The options of a model are those of maxsup_jax.models.create_model.
      'model': {'name': 'resnet8', 'dtype': 'float32'},
      # The work directory of a run whose newest weights to start from, or a
      # file of PyTorch weights: .safetensors, .pth and others.
      'init_from': placeholder(str),
      # Statistics over the global batch, 'cross_device', or 'per_device'.
      'batch_norm': 'cross_device',
      # Mixup and cutmix, on the device; see maxsup_jax.training.mixing.
      'mixing': {
        # Both parameters of their Beta distributions; 0 for neither.
        'mixup': 0.0,
        'cutmix': 0.0,
        'probability': 1.0,
        # Where both are on: how often it is cutmix.
        'switch': 0.5,
        # One draw for a 'batch', or for each 'pair' of images.
        'mode': 'batch',
      },
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
      'log_every': '50 steps',
      'eval_every': '1 epoch',
      'checkpoint_every': '1 epoch',
      'keep_checkpoints': 3,
      # Neural collapse and calibration of both splits, so often and at the end;
      # None for never. It reads the whole training split twice.
      'diagnostics_every': placeholder(str),
    }
  )


def resolve(config: Mapping[str, Any]) -> ConfigDict:
  """Fills in defaults and refuses what no field has.

  Args:
    config: nested fields, as a run card or a work directory's `config.json`
      gives them; those left out take their defaults.

  Returns:
    A complete, locked configuration.

  Raises:
    UsageError: for an unknown field, or a value of the wrong type.

  Examples:
    >>> config = resolve({'optimizer': {'learning_rate': 0.5}})
    >>> config.optimizer.learning_rate, config.optimizer.momentum
    (0.5, 0.9)
  """
  if isinstance(config, ConfigDict):
    config = config.to_dict()
  if not isinstance(config, Mapping):
    raise UsageError(
      f'a configuration is a mapping of fields, not a {type(config).__name__}'
    )
  resolved = default_config()
  _merge(resolved, config, '')
  _check(resolved)
  return resolved.lock()


def fields(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """The leaves of a nested mapping under dotted names.

  Examples:
    >>> fields({'seed': 0, 'model': {'name': 'resnet8'}})
    {'seed': 0, 'model.name': 'resnet8'}
  """
  flat = {}
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


def _merge(into: ConfigDict, given: Mapping[str, Any], prefix: str) -> None:
  for name, value in given.items():
    field = prefix + name
    if name not in into:
      raise UsageError(
        f'unknown field config.{field}; known: '
        f'{", ".join(prefix + n for n in into)}'
      )
    if field in FREE_SECTIONS:
      if not isinstance(value, Mapping) or 'name' not in value:
        raise UsageError(
          f'config.{field} is {value!r}; expected a mapping with a name'
        )
      into[name] = ConfigDict(dict(value))
    elif isinstance(into.get_ref(name).get(), ConfigDict):
      if not isinstance(value, Mapping):
        raise UsageError(
          f'config.{field} is {value!r}; expected fields: '
          f'{", ".join(into[name])}'
        )
      _merge(into[name], value, f'{field}.')
    else:
      # JSON knows no tuples.
      value = tuple(value) if isinstance(value, list) else value
      kind = into.get_type(name)
      try:
        into[name] = value
      except TypeError:
        raise UsageError(
          f'config.{field} is {value!r} ({type(value).__name__}); expected '
          f'{kind.__name__}'
        ) from None


def _check(config: ConfigDict) -> None:
  """Refuses values out of range that no other module would see."""
  flat = fields(config)
  for field, value in flat.items():
    values = value if isinstance(value, tuple) else (value,)
    if any(isinstance(v, float) and not math.isfinite(v) for v in values):
      raise UsageError(f'config.{field} is {value}; expected a finite number')
  for field in AT_LEAST_ONE:
    if flat[field] is not None and flat[field] < 1:
      raise UsageError(f'config.{field} is {flat[field]}; expected at least 1')
  for field in AT_LEAST_ZERO:
    if flat[field] < 0:
      raise UsageError(f'config.{field} is {flat[field]}; expected 0 or more')
  for field in MORE_THAN_ZERO:
    if flat[field] is not None and not flat[field] > 0:
      raise UsageError(f'config.{field} is {flat[field]}; expected more than 0')
  for field in PROBABILITIES:
    if not 0 <= flat[field] <= 1:
      raise UsageError(f'config.{field} is {flat[field]}; expected from 0 to 1')
  for field, choices in CHOICES.items():
    if flat[field] not in choices:
      raise UsageError(
        f'config.{field} is {flat[field]!r}; expected {" or ".join(choices)}'
      )
  imbalance = config.dataset.imbalance
  if imbalance is not None and not 0 < imbalance <= 1:
    raise UsageError(
      f'config.dataset.imbalance is {imbalance}; expected more than 0, and at '
      'most 1'
    )
  for field in ('dataset.mean', 'dataset.std'):
    if not flat[field] or not all(
      isinstance(v, int | float) and not isinstance(v, bool)
      for v in flat[field]
    ):
      raise UsageError(
        f'config.{field} is {flat[field]}; expected a number per channel, or '
        'one for all'
      )
  # JAX seeds its generator with 32 bits.
  if not 0 <= config.seed < 2**32:
    raise UsageError(
      f'config.seed is {config.seed}; expected from 0 to below 2**32'
    )
  if config.ema_decay is not None and not 0 <= config.ema_decay < 1:
    raise UsageError(
      f'config.ema_decay is {config.ema_decay}; expected from 0 to below 1, or '
      'None for no averages'
    )
  if not all(s > 0 for s in config.dataset.std):
    raise UsageError(
      f'config.dataset.std is {config.dataset.std}; expected more than 0'
    )
