"""Writes the logits and features of a checkpoint into one .npz file.

  python -m experiments.extract --workdir=DIR --split=test --step=1000

The file holds, for every example of the split, once and in its order,

  logits    float32 [N, K]
  labels    int32 [N]
  features  float32 [N, D], what the last linear layer sees

and of that layer `weights` float32 [K, D] and `bias` [K], the `class_names` [K]
where the dataset has them, and two JSON texts: `metadata`, where it comes from,
and `history`, the lines of the run's metrics.jsonl up to that step. Images are
not augmented, nor is the model in training mode, whatever the split.

With --augmentations=L it also holds `augmented_logits` float32 [M, L, K] and
`augmented_labels` int32 [M]: L random augmentations, those of training, of the
first --per_class examples of each class of --pair, for the mutual information
of Müller et al. (2019). Take the training split for it, as they do.

It is written batch by batch, so that its size does not matter: 1.28 million
images with 1,000 logits and 2,048 features are 15.6 GB. All devices of one
process are used; several processes are refused.
"""

import json
import pathlib
import re
import sys

from absl import flags

from experiments import _cli, _compilation, _processes

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run to extract from.')
_SPLIT = flags.DEFINE_string(
  'split', None, "A split of the dataset; by default the config's eval_split."
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Which checkpoint; by default the newest.'
)
_WEIGHTS = flags.DEFINE_enum(
  'weights', 'raw', ['raw', 'ema'], 'The weights themselves or their averages.'
)
_AUGMENTATIONS = flags.DEFINE_integer(
  'augmentations',
  0,
  'Augmentations of each example of --pair; 0 for none, 5 in the paper.',
  lower_bound=0,
)
_PAIR = flags.DEFINE_list('pair', ['0', '1'], 'The two classes to augment.')
_PER_CLASS = flags.DEFINE_integer(
  'per_class', 300, 'How many examples of each class to augment.', lower_bound=1
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'The file; by default WORKDIR/extract/SPLIT-STEP.npz, or -ema.npz.',
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace the file if it exists.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where datasets are; tfds's own default if not given."
)

flags.declare_key_flag('compilation_cache')


def main():
  if _WORKDIR.value is None:
    raise _cli.UsageError('--workdir is needed: the directory of a run')
  _processes.refuse_several(
    'extract', ': each would have only a part of every batch'
  )
  import jax
  import numpy as np
  from tqdm import tqdm

  from maxsup_jax.data import parse_transform
  from maxsup_jax.training import setup
  from maxsup_jax.training.checkpoints import Checkpoints
  from maxsup_jax.training.extraction import extract
  from maxsup_jax.training.npz import NpzWriter, refuse_existing
  from maxsup_jax.training.workdir import Workdir

  directory = Workdir(_WORKDIR.value, writes=False)
  config = directory.config()
  split = _SPLIT.value or config.dataset.eval_split
  weights = _WEIGHTS.value
  if weights == 'ema' and config.ema_decay is None:
    raise _cli.UsageError(
      f'--weights=ema: the run in {directory.path} keeps no averaged weights '
      '(its config.ema_decay is None)'
    )
  checkpoints = Checkpoints(directory.checkpoints)
  steps = checkpoints.steps()
  if not steps:
    raise _cli.UsageError(f'no checkpoint in {directory.checkpoints}')
  step = steps[-1] if _STEP.value is None else _STEP.value
  out = pathlib.Path(
    _OUT.value or directory.path / 'extract' / _file_name(split, step, weights)
  )
  refuse_existing(out, overwrite=_OVERWRITE.value)
  run = setup.build(
    config, data_dir=_DATA_DIR.value, eval_split=split, training=False
  )
  pair = _checked_pair(run)
  _compilation.keep_compiled(directory.path)
  state, _ = checkpoints.restore(step, jax.eval_shape(run.init_state))
  checkpoints.close()
  variables = state.variables(ema=weights == 'ema')
  head = variables['params']['head']
  source = run.eval_source
  N, (D, K) = len(source), head['kernel'].shape
  columns = {
    'logits': ((N, K), np.float32),
    'features': ((N, D), np.float32),
    'labels': ((N,), np.int32),
  }
  correct, nll, labels = 0, 0.0, []
  extract_step = run.devices.map(run.extract_step())
  variables = run.devices.replicate(variables)
  with NpzWriter(out, columns, overwrite=_OVERWRITE.value) as file:
    if 'bias' in head:  # Others are not linear.
      file.write('weights', np.ascontiguousarray(head['kernel'].T))
      file.write('bias', np.asarray(head['bias']))
    if source.label_names is not None:
      file.write('class_names', np.array(source.label_names))
    metadata = _metadata(run, split, step, weights)
    file.write('metadata', np.array(json.dumps(metadata)))
    history = [r for r in directory.metrics() if r['step'] <= step]
    file.write('history', np.array(json.dumps(history)))
    with tqdm(
      total=N,
      unit=' images',
      unit_scale=True,
      mininterval=0.2 if sys.stderr.isatty() else 10,
    ) as progress:
      for batch in extract(
        extract_step, variables, run.eval_batches(), run.devices
      ):
        for name in columns:
          file.append(name, batch[name])
        sums = _classified(batch['logits'], batch['labels'])
        correct, nll = correct + sums[0], nll + sums[1]
        labels.append(batch['labels'])
        progress.update(len(batch['labels']))
    if pair:
      augmented = _augmented(run, np.concatenate(labels), pair)
      # They are transformed already.
      eval_batches = run.eval_batches(augmented, transform=parse_transform(''))
      batches = extract(extract_step, variables, eval_batches, run.devices)
      parts = [(b['logits'], b['labels']) for b in batches]
      logits, labels = (np.concatenate(p) for p in zip(*parts))
      L = _AUGMENTATIONS.value
      file.write('augmented_logits', logits.reshape(-1, L, K))
      file.write('augmented_labels', labels[::L])
  print(
    f'{out}: {N:,} examples of {source.name} at step {step}, '
    f'{out.stat().st_size / 1e6:,.1f} MB; accuracy {correct / N:.2%}, '
    f'NLL {nll / N:.4f}'
  )
  return 0


def _checked_pair(run):
  """The two classes to augment, or None; refuses before anything is done."""
  if not _AUGMENTATIONS.value:
    return None
  if _AUGMENTATIONS.value < 2:
    raise _cli.UsageError('--augmentations=1: expected at least 2, or 0')
  K = run.eval_source.num_classes
  try:
    pair = [int(k) for k in _PAIR.value]
  except ValueError:
    pair = []
  if len(set(pair)) != 2 or not all(0 <= k < K for k in pair):
    raise _cli.UsageError(
      f'--pair={",".join(_PAIR.value)}: expected two classes from 0 to {K - 1}'
    )
  if not run.train_transform.random:
    raise _cli.UsageError(
      '--augmentations: the run was trained without any (its '
      'config.dataset.train_transform)'
    )
  return pair


def _augmented(run, labels, pair):
  """The augmentations of the first examples of each class."""
  import numpy as np

  from maxsup_jax.data import AugmentedSource

  found = [np.flatnonzero(labels == k)[: _PER_CLASS.value] for k in pair]
  for k, indices in zip(pair, found):
    if not len(indices):
      raise _cli.UsageError(
        f'--pair: {run.eval_source.name} has no example of class {k}'
      )
  return AugmentedSource(
    run.eval_source,
    np.concatenate(found),
    _AUGMENTATIONS.value,
    run.train_transform,
    seed=run.config.seed,
  )


def _file_name(split, step, weights):
  # A split may be written as in 'train[:10%]'.
  split = re.sub(r'[^\w.+-]+', '_', split).strip('_')
  return f'{split}-{step}{"-ema" if weights == "ema" else ""}.npz'


def _metadata(run, split, step, weights):
  """Where the arrays come from."""
  from maxsup_jax.training.provenance import provenance

  config = run.config
  return {
    'name': pathlib.Path(_WORKDIR.value).absolute().name,
    'dataset': config.dataset.name
    + (', made up' if config.dataset.mock is not None else ''),
    'split': split,
    'model': config.model.name,
    'objective': config.objective.name,
    'seed': config.seed,
    'step': step,
    'epoch': step / run.steps_per_epoch,
    'weights': weights,
    'examples': len(run.eval_source),
    **provenance(),
    'config': config.to_dict(),
  }


def _classified(logits, labels):
  """How many are right, and the sum of their cross-entropies."""
  import numpy as np
  from scipy.special import logsumexp

  logits = logits.astype(np.float64)
  true = np.take_along_axis(logits, labels[:, None], -1)[:, 0]
  return (
    int((logits.argmax(-1) == labels).sum()),
    float((logsumexp(logits, -1) - true).sum()),
  )


if __name__ == '__main__':
  _cli.run(main)
