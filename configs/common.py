"""What the run cards share: arguments after the colon, and objectives."""

from typing import Any

from ml_collections import ConfigDict

from maxsup_jax._errors import UsageError

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


# The losses that MaxSup's paper trains with a linear schedule, and those that
# it has no meaning for.
_SCHEDULED = (
  'ls',
  'maxsup',
  'regularization_only',
  'error_amplification_only',
  'error_amplification_max',
)
_WITHOUT_STRENGTH = ('ce',)


def parse_arg(arg: str | None, **defaults: Any) -> ConfigDict:
  """Reads the part of `--config=card.py:name=value,...` after the colon.

  Args:
    arg: comma-separated `name=value` pairs, or None.
    **defaults: the known arguments. A value is read as the type of its default:
      int, float, bool ('true' or 'false') or str.

  Returns:
    The arguments, as attributes.

  Raises:
    UsageError: for an unknown argument, or a value that cannot be read.

  Examples:
    >>> parse_arg('loss=ls,seed=3', loss='maxsup', seed=0).seed
    3
  """
  values = dict(defaults)
  for pair in filter(None, (arg or '').split(',')):
    name, equals, text = pair.partition('=')
    if name not in defaults or not equals:
      raise UsageError(
        f'unknown argument {pair!r} after the colon of --config; known: '
        + ', '.join(f'{n}={v}' for n, v in defaults.items())
      )
    kind = type(defaults[name])
    try:
      if kind is bool:
        values[name] = {'true': True, 'false': False}[text.lower()]
      else:
        values[name] = kind(text)
    except (ValueError, KeyError):
      raise UsageError(
        f'argument {pair!r} after the colon of --config: expected '
        f'{kind.__name__}'
      ) from None
  return ConfigDict(values)


def objective(loss: str, schedule: str = 'constant') -> dict[str, Any]:
  """The config.objective of a `loss=` argument.

  Args:
    loss: a key of `OBJECTIVES`.
    schedule: 'constant', or 'linear', which raises alpha epoch by epoch from
      0.1 towards 0.2, as 0.1 + 0.1 t/T (Zhou et al., NeurIPS 2025, Appendix F);
      only for label smoothing, MaxSup and its ablation. Cross-entropy, which
      has no alpha, stays as it is.

  Returns:
    What `maxsup_jax.losses.make_objective` takes.

  Raises:
    UsageError: for a loss or schedule that is not known, or a loss that the
      linear schedule is not for.

  Examples:
    >>> objective('maxsup')
    {'name': 'maxsup', 'alpha': 0.1}
  """
  if loss not in OBJECTIVES:
    raise UsageError(f'unknown loss {loss!r}; known: {", ".join(OBJECTIVES)}')
  config = dict(OBJECTIVES[loss])
  if schedule not in ('constant', 'linear'):
    raise UsageError(
      f'unknown schedule of alpha {schedule!r}; known: constant, linear'
    )
  if schedule == 'linear' and loss not in _WITHOUT_STRENGTH:
    if loss not in _SCHEDULED:
      raise UsageError(
        f'loss {loss!r} has no linear schedule of alpha from 0.1 to 0.2; it is '
        f'for {", ".join(_SCHEDULED)}'
      )
    config['alpha'] = {
      'schedule': 'linear',
      'begin': 0.1,
      'end': 0.2,
      'denominator': 'epochs',
    }
  return config
