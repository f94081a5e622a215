"""Draws a batch as training sees it, to look at what a run card does to images.

  python -m experiments.show_batch --config=configs/digits.py --out=batch.png
  python -m experiments.show_batch --config=configs/digits.py --epochs=0,1,2,3

The picture shows the first images of the batch of --step, after augmentation,
mixup and cutmix: the very ones that `experiments.train` takes at that step with
the same card. Their normalisation is undone. Below stand the classes; those of
a mixed image with their weights.

With --epochs it shows what the augmentation makes of the same examples in
several epochs, beside the originals; nothing is mixed.

It prints shapes, and the mean and standard deviation of the normalised images
of the whole batch, per channel: 0 and 1 where dataset.mean and dataset.std fit.
"""

import dataclasses
import re
import sys

from absl import flags

from experiments import _cli, _processes

CARD = 'configs/digits.py'
_OWN = 'Float images: each is scaled to its own range.'

_OUT = flags.DEFINE_string(
  'out', 'batch.png', 'The .png to write; an existing one is replaced.'
)
_STEP = flags.DEFINE_integer(
  'step',
  0,
  'Step whose batch to show; with --split=eval, the number of the batch.',
  lower_bound=0,
)
_ROWS = flags.DEFINE_integer('rows', 4, 'Rows of images.', lower_bound=1)
_COLUMNS = flags.DEFINE_integer('columns', 8, 'Images in a row.', lower_bound=1)
_SPLIT = flags.DEFINE_enum(
  'split',
  'train',
  ['train', 'eval'],
  "Which of the config's splits to show, with its transform.",
)
_EPOCHS = flags.DEFINE_list(
  'epochs', [], 'Show the same examples, one a row, as these epochs see them.'
)
_cli.define_data_dir()


def main():
  epochs = _checked_epochs()
  _processes.refuse_several(
    'show_batch', ': each would have only a part of the batch'
  )
  from maxsup_jax import files, tasks
  from maxsup_jax.tasks.config import check_task

  files.check_ending(_OUT.value, ['.png'])
  out = files.check_writable(_OUT.value)
  config = tasks.resolve(flags.FLAGS.config)
  tasks.check_names(config)
  check_task(config)
  import jax

  from maxsup_jax.training.parallel import Devices

  run = tasks.build(
    config,
    data_dir=flags.FLAGS.data_dir,
    # Of one device, whatever there is: the batch is the same.
    devices=Devices(jax.local_devices()[:1]),
    training=_SPLIT.value == 'train',
  )
  if run.task.unit != 'images':
    raise _cli.UsageError(
      f'{run.task.train_name} has {run.task.unit}, not images, to show'
    )
  picture, report = _show_epochs(run, epochs) if epochs else _show_batch(run)
  files.write(out, picture)
  print(f'{out}: {report}')
  return 0


def _checked_epochs():
  """The epochs of --epochs; refuses the flags that they have no use for."""
  given = _EPOCHS.value
  if not given:
    return []
  if not all(e.isdecimal() and int(e) < 2**31 for e in given):
    raise _cli.UsageError(
      f'--epochs is {",".join(given)}; expected integers from 0 to 2147483647'
    )
  for name in ('step', 'columns', 'split'):
    if flags.FLAGS[name].present:
      raise _cli.UsageError(f'--epochs and --{name} cannot be combined')
  return [int(e) for e in given]


def _show_batch(run):
  """The picture of a batch, and what to print about it."""
  from maxsup_jax.reports import batch as pictures

  split, step, dataset = _SPLIT.value, _STEP.value, run.config.dataset
  train = split == 'train'
  source = run.task.train_source if train else run.task.eval_source
  seen = pictures.read(run, split=split, step=step)
  stored = seen.batch['image']
  mixed = train and run.task.mixing.active
  columns = _COLUMNS.value
  count = min(_ROWS.value * columns, len(stored))
  if stored.dtype.kind == 'f':
    images, caption = [pictures.stretched(x) for x in seen.inputs[:count]], _OWN
  elif mixed:
    images = pictures.to_pixels(seen.inputs[:count], dataset.mean, dataset.std)
    caption = 'Normalisation undone.'
  else:
    images, caption = stored[:count], 'Pixels before normalisation.'
  if mixed:
    settings = dataclasses.asdict(run.task.mixing).items()
    caption += f' Mixed: {", ".join(f"{n} {v}" for n, v in settings)}.'
  if count < len(stored):
    caption = f'{count} of the {len(stored)} images of the batch. {caption}'
  texts = [
    pictures.label_text(label, source.label_names)
    for label in seen.labels[:count]
  ]
  where = f'{source.name}, batch {step}'
  if train:
    where = f'{source.name}, step {step}, epoch {step // run.steps_per_epoch}'
  starts = range(0, count, columns)
  picture = pictures.grid(
    [images[i : i + columns] for i in starts],
    [texts[i : i + columns] for i in starts],
    title=_title(run, where, split),
    caption=caption,
  )
  mean, std = (
    ', '.join(f'{x:.3f}' for x in values) for values in (seen.mean, seen.std)
  )
  return picture, (
    f'{where}: images {_form(stored)}; labels {_form(seen.labels)}; '
    f'normalised{", before mixing" if mixed else ""}: mean {mean}, std {std}'
  )


def _show_epochs(run, epochs):
  """The picture of some examples in several epochs, and what to print."""
  from maxsup_jax.reports import batch as pictures

  source = run.task.train_source
  found = pictures.read_epochs(run, epochs=epochs, count=_ROWS.value)
  version = found.versions[0][0]
  own = version.dtype.kind == 'f'
  rows, texts = [], []
  for original, versions, label, index in zip(*found):
    if own:
      versions = map(pictures.stretched, versions)
    rows.append([original, *versions])
    name = pictures.label_text(label, source.label_names)
    texts.append([f'{name}\n#{index}', *[''] * len(epochs)])
  picture = pictures.grid(
    rows,
    texts,
    title=_title(run, source.name, 'train'),
    caption=_OWN if own else '',
    headings=['original', *(f'epoch {e}' for e in epochs)],
  )
  return picture, (
    f'{len(rows)} examples of {source.name} in epochs '
    f'{", ".join(map(str, epochs))}: {_form(version)}'
  )


def _form(x):
  return f'{x.dtype} {list(x.shape)}'


def _title(run, where, split):
  """The card, the fields that were changed, the batch, and its transform."""
  _, card = _cli.take_card(sys.argv[1:], CARD)
  # The transform has a line of its own.
  other = r'--?config\.(?!dataset\.(train|eval)_transform)'
  changed = [a for a in sys.argv[1:] if re.match(other, a)]
  field = f'{split}_transform'
  transform = run.config.dataset[field] or 'none'
  return f'{" ".join([card, *changed])}\n{where}\n{field}: {transform}'


if __name__ == '__main__':
  _cli.run(main, config=CARD)
