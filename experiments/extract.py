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

Of a run of segmentation the examples are pixels, at most --limit of each image,
drawn by their labels alone; of a run of translation the next tokens after the
true beginnings of whole sentences, --limit of them at most, K is the
vocabulary. `groups` int64 [N] says which image or sentence each is of: reports
draw and hold out these.

It is written batch by batch, so that its size does not matter: 1.28 million
images with 1,000 logits and 2,048 features are 15.6 GB. All devices of one
process are used; several processes are refused.
"""

from absl import flags

from experiments import _cli, _processes

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run to extract from.')
_AUGMENTATIONS = flags.DEFINE_integer(
  'augmentations',
  0,
  'Augmentations of each example of --pair; 0 for none, 5 in the paper.',
  lower_bound=0,
)
flags.DEFINE_list('pair', ['0', '1'], 'The two classes to augment.')
_PER_CLASS = flags.DEFINE_integer(
  'per_class', 300, 'How many examples of each class to augment.', lower_bound=1
)
_LIMIT = flags.DEFINE_integer(
  'limit',
  None,
  'How many at most: pixels of each image, by default 1,000; tokens in all, by '
  'default 10,000.',
  lower_bound=1,
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'The file; by default WORKDIR/extract/SPLIT-STEP.npz, or -ema.npz.',
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace the file if it exists.'
)
_cli.define_run_flags()
_cli.define_dataset()


def main():
  _processes.refuse_several(
    'extract', ': each would have only a part of every batch'
  )
  from maxsup_jax import files, tasks

  _cli.check_runs(_cli.needed('workdir'))
  if _OUT.value:
    files.refuse_existing(_OUT.value, overwrite=_OVERWRITE.value)
  for name in ('pair', 'per_class'):
    if flags.FLAGS[name].present and not _AUGMENTATIONS.value:
      raise _cli.UsageError(f'--{name} needs --augmentations')
  from maxsup_jax.tasks import extraction

  augmentations = None
  if _AUGMENTATIONS.value:
    augmentations = extraction.Augmentations(
      _AUGMENTATIONS.value, _cli.numbers('pair'), _PER_CLASS.value
    )
  given = _cli.values('step', 'weights', 'data_dir', 'split', 'dataset')
  loaded = tasks.load_run(_WORKDIR.value, **given)
  _cli.keep_compiled(loaded.workdir.path)
  found = extraction.extract(
    loaded,
    _OUT.value,
    augmentations=augmentations,
    limit=_LIMIT.value,
    overwrite=_OVERWRITE.value,
  )
  print(
    f'{found.path}: {found.examples:,} examples of {found.source} at step '
    f'{loaded.step}, {files.size(found.path) / 1e6:,.1f} MB; accuracy '
    f'{found.accuracy:.2%}, NLL {found.nll:.4f}'
  )
  if loaded.run.config.task == 'translation':
    print(f'frequent tokens, for --classes of diagnose: {_frequent(found)}')
  return 0


def _frequent(found):
  """The ids and names of the tokens of which there are most."""
  import collections

  from maxsup_jax import outputs

  read = outputs.read(found.path)
  counts = collections.Counter(read.labels.tolist())
  return ', '.join(
    f'{k} ({read.class_name(k)})' for k, _ in counts.most_common(12)
  )


if __name__ == '__main__':
  _cli.run(main, anywhere=True)
