"""What the run cards share: arguments, objectives, and the debug mode.

Every card has these arguments after the colon, besides its own:

  loss=maxsup     ce, ls or any other key of `OBJECTIVES`
  alpha=constant  how the strength of ls and maxsup goes, see `objective`; what
                  the default is, depends on the paper
  seed=0
  debug=true      a few steps at tiny size, on random images: see `debug`
  mock=false      with debug=true: on the dataset itself (glyphs.py draws a
                  small one of its own, and has no such argument)
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from maxsup_jax import errors
from maxsup_jax.errors import UsageError

# What `loss=` accepts, and the config.objective that it stands for.
OBJECTIVES = {
  'ce': {'name': 'ce'},
  'ls': {'name': 'ls', 'alpha': 0.1, 'convention': 'uniform'},
  'maxsup': {'name': 'maxsup', 'alpha': 0.1},
  # Negative label smoothing, for noisy labels; the strength is an example. The
  # loss is unbounded below: on clean labels it runs away.
  'nls': {'name': 'ls', 'alpha': -0.1, 'convention': 'uniform'},
  'ols': {'name': 'ols', 'alpha': 0.5, 'initial': 'uniform'},
  'zipf': {'name': 'zipf', 'alpha': 0.1, 'ranking': 'logits'},
  'zipf_votes': {'name': 'zipf', 'alpha': 0.1, 'ranking': 'votes'},
  'logit_penalty': {'name': 'logit_penalty', 'alpha': 2e-3, 'form': 'half'},
  'confidence_penalty': {
    'name': 'confidence_penalty',
    'alpha': 0.1,
    'form': 'entropy',
  },
  'logit_norm': {'name': 'logit_norm', 'temperature': 0.04},
  'focal': {'name': 'focal', 'gamma': 2.0},
  'mbls': {'name': 'mbls', 'alpha': 0.1, 'margin': 10.0},
  'acls': {
    'name': 'acls',
    'alpha': 0.1,
    'margin': 10.0,
    'top_weight': 1.0,
    'rest_weight': 0.1,
  },
  'self_smoothing': {
    'name': 'adaptive_ls',
    'alpha': 0.1,
    'prior': 'self',
    'temperature': 1.0,
  },
  # The paper does not give its rule for alpha, nor its range; see
  # `maxsup_jax.losses.confidence_alpha`.
  'adaptive_maxsup': {'name': 'maxsup', 'alpha': 0.2, 'adaptive_alpha': True},
  # Both need --config.teacher=WORKDIR. That of Müller et al., 2019, without and
  # with the labels; theirs has the temperature of the teacher alone.
  'distillation': {
    'name': 'distillation',
    'beta': 1.0,
    'teacher_temperature': 1.0,
    'student_temperature': 1.0,
    'divergence': 'cross_entropy',
    'scale_by_squared_temperature': False,
  },
  'logit_matching': {
    'name': 'logit_matching',
    'beta': 0.6,
    'reduction': 'sum',
  },
  # The rows of the ablation of MaxSup, Table 1.
  'regularization_only': {
    'name': 'regularization_only',
    'alpha': 0.1,
    'normalization': 'below',
  },
  'error_amplification_only': {
    'name': 'error_amplification_only',
    'alpha': 0.1,
    'normalization': 'above',
  },
  'error_amplification_max': {
    'name': 'error_amplification_only',
    'alpha': 0.1,
    'normalization': 'max',
  },
}

# How the strength goes; see `objective`.
ALPHAS = ('paper', 'constant', 'linear', 'linear_last')
# The losses whose strength it is, and those that have none.
SMOOTHED = (
  'ls',
  'maxsup',
  'regularization_only',
  'error_amplification_only',
  'error_amplification_max',
)
_WITHOUT_STRENGTH = ('ce',)

# Every kind of parameter, for `config.optimizer.decay`: what PyTorch's
# optimizers decay unless they are told otherwise.
EVERYTHING = ('kernel', 'bias', 'normalization', 'embedding')

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Reads the part of `--config=card.py:name=value,...` after the colon.

  Args:
    arg: comma-separated `name=value` pairs, or None.
    **defaults: the known arguments. A value is read as the type of its default:
      int, float, bool ('true' or 'false') or str. A tuple lists all the values
      that there are, the default first.

  Returns:
    The arguments, as attributes.

  Raises:
    UsageError: for an unknown argument, one that is given twice, or a value
      that cannot be read.

  Examples:
    >>> args = parse_arg('seed=3,head=mlp', seed=0, head=('linear', 'mlp'))
    >>> args.seed, args.head
    (3, 'mlp')
  """
  values = {n: d[0] if _is_choice(d) else d for n, d in defaults.items()}
  given = set()
  for pair in filter(None, (arg or '').split(',')):
    name, equals, text = pair.partition('=')
    if name not in defaults or not equals:
      near = errors.nearest(name, [n for n in defaults if n != name])
      known = ', '.join(f'{n}={_shown(d)}' for n, d in defaults.items())
      hint = f'did you mean {near!r}? Known' if near else 'known'
      raise UsageError(
        f'unknown argument {pair!r} after the colon of --config; {hint}: '
        f'{known}'
      )
    if name in given:
      raise UsageError(
        f'argument {name!r} is given twice after the colon of --config'
      )
    given.add(name)
    values[name] = _read(pair, text, defaults[name])
  return ConfigDict(values)


def objective(
  loss: str,
  schedule: str = 'constant',
  *,
  smoothing: float | None = None,
  usual: float | None = None,
) -> dict[str, Any]:
  """The config.objective of the arguments `loss=`, `alpha=` and `smoothing=`.

  The schedules are those of Zhou et al. (NeurIPS 2025). They are for label
  smoothing, MaxSup and its ablation; cross-entropy, which has no alpha, stays
  as it is under each of them.

  * 'constant': `smoothing`, or what `OBJECTIVES` has.
  * 'linear': from 0.1 towards 0.2 epoch by epoch, 0.1 + 0.1 t/T, as in their
    Appendix F. The last epoch stays one step short of 0.2.
  * 'linear_last': 0.1 + 0.1 t/(T-1), as in most of their code. The last epoch
    has 0.2.
  * 'paper': 'linear' for label smoothing and MaxSup, as they say that they
    trained both; 'constant' for every other loss, whichever it is.

  Args:
    loss: a key of `OBJECTIVES`.
    schedule: one of `ALPHAS`.
    smoothing: the constant strength of the losses in `SMOOTHED`; None for that
      of `OBJECTIVES`. All other losses keep their own.
    usual: the value of `smoothing` that the user did not ask for, which a loss
      or schedule that has no use for it may ignore.

  Returns:
    What `maxsup_jax.losses.make_objective` takes.

  Raises:
    UsageError: for a loss or schedule that is not known, a loss that the
      schedule is not for, or a smoothing that would have no effect.

  Examples:
    >>> objective('maxsup')
    {'name': 'maxsup', 'alpha': 0.1}
    >>> objective('ls', smoothing=0.2)
    {'name': 'ls', 'alpha': 0.2, 'convention': 'uniform'}
    >>> objective('focal', 'paper', smoothing=0.2, usual=0.2)
    {'name': 'focal', 'gamma': 2.0}
  """
  if loss not in OBJECTIVES:
    raise errors.unknown(f'loss {loss!r}', loss, OBJECTIVES)
  if schedule not in ALPHAS:
    what = f'schedule of alpha {schedule!r}'
    raise errors.unknown(what, schedule, ALPHAS)
  config = dict(OBJECTIVES[loss])
  if schedule == 'paper':
    schedule = 'linear' if loss in ('ls', 'maxsup') else 'constant'
  linear = schedule != 'constant' and loss not in _WITHOUT_STRENGTH
  if linear and loss not in SMOOTHED:
    raise UsageError(
      f'loss {loss!r} has no linear schedule of alpha from 0.1 to 0.2; it is '
      f'for {", ".join(SMOOTHED)}'
    )
  if loss in SMOOTHED and not linear:
    config['alpha'] = config['alpha'] if smoothing is None else smoothing
  elif smoothing != usual:
    raise UsageError(
      f'smoothing={smoothing} has no effect on loss {loss!r} with a '
      f'{schedule} alpha; it is the constant alpha of {", ".join(SMOOTHED)}'
    )
  if linear:
    config['alpha'] = {
      'schedule': 'linear',
      'begin': 0.1,
      'end': 0.2,
      'denominator': 'epochs' if schedule == 'linear' else 'epochs-1',
    }
  return config


def model_options(name: str) -> Mapping[str, Any]:
  """The options of a model with their defaults; none for an unknown name.

  Args:
    name: a key of `maxsup_jax.models.MODELS`.
  """
  if name == 'resnet8':
    # What `--help` of the default card must know, without Flax, which takes a
    # second to import.
    return {'stem': 'cifar', 'width': 32}
  from maxsup_jax.models import MODELS

  return MODELS[name].options if name in MODELS else {}


def debug(
  config: ConfigDict, *, mock: bool = True, examples: int = 32
) -> ConfigDict:
  """Shrinks a run to a few steps that a laptop can take.

  The family of the model, the objective, the optimizer and the kind of schedule
  stay; warm-up and milestones move into the few steps, and what had one value
  an epoch has one a step. An exponential decay goes by epochs, of which random
  images leave two; on the dataset itself it stays in the first. Images are made
  small by the card itself, in its transforms.

  Args:
    config: a run, which is changed.
    mock: replaces the dataset by random images and labels of its form, so that
      nothing has to be there.
    examples: how many of them there are in each split.

  Returns:
    The config.
  """
  steps = 4
  config.batch_size = config.eval_batch_size = 16
  config.duration = f'{steps} steps'
  config.log_every = '1 step'
  config.eval_every = config.checkpoint_every = f'{steps} steps'
  if config.diagnostics_every is not None:
    config.diagnostics_every = f'{steps} steps'
  warmup = 0 if config.schedule.warmup.startswith('0 ') else 1
  config.schedule.warmup = f'{warmup} steps'
  config.schedule.per = 'step'
  config.schedule.milestones = tuple(
    f'{warmup + 1 + index} steps'
    for index in range(len(config.schedule.milestones))
  )
  # A laptop emulates bfloat16.
  config.model.dtype = 'float32'
  if mock:
    config.dataset.mock = examples
  return config


def _is_choice(default: Any) -> bool:
  return isinstance(default, tuple)


def _shown(default: Any) -> str:
  """A default as a user would write it."""
  if _is_choice(default):
    return '|'.join(map(str, default))
  return str(default).lower() if isinstance(default, bool) else str(default)


def _read(pair: str, text: str, default: Any) -> Any:
  """The value of an argument."""
  choices: Mapping[str, Any] = {}
  if _is_choice(default):
    choices = {str(choice): choice for choice in default}
  elif isinstance(default, bool):
    choices = {'true': True, 'false': False}
    text = text.lower()
  try:
    return choices[text] if choices else type(default)(text)
  except (ValueError, KeyError):
    expected = ', '.join(choices) or type(default).__name__
    raise UsageError(
      f'argument {pair!r} after the colon of --config: expected {expected}'
    ) from None
