"""Measures what the papers measure, from anyone's logits, onto one page.

  python -m experiments.diagnose ce.npz ls.npz maxsup.npz --out=report

Each file holds the `logits` [N, K] and `labels` [N] of one model and, where
there are any, its `features` [N, D], the `weights` [K, D] and `bias` [K] of its
last layer; `python -m experiments.extract` writes them, numpy.savez does, too.
The first model is the one that the others are compared with. --train names the
files of the training split, in the same order.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import _cli, _processes

_OUT = flags.DEFINE_string(
  'out', None, 'The directory of the report, which is created.'
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace the report in --out.'
)
_TRAIN = flags.DEFINE_list(
  'train', [], 'Files of the training split, one for each model.'
)
_NAMES = flags.DEFINE_list(
  'names', [], 'What to call the models, one name for each.'
)
_SECTIONS = flags.DEFINE_list(
  'sections', [], 'Sections of the report; by default all.'
)
_HELD_OUT = flags.DEFINE_float(
  'held_out',
  0.2,
  'Share of the examples on which temperatures, norms and thresholds are '
  'chosen; results are on the others.',
)
_SEEDS = flags.DEFINE_list(
  'seeds',
  ['0', '1', '2', '3', '4'],
  'Seeds of the splits into held-out and other examples; the first also '
  'seeds the bootstrap.',
)
_RESAMPLES = flags.DEFINE_integer(
  'resamples', 1000, 'Bootstrap resamples; 0 for no intervals.'
)
_LEVEL = flags.DEFINE_float('level', 0.95, 'Level of the intervals.')
_BINS = flags.DEFINE_integer('bins', 15, 'Bins of the calibration errors.')
_CLASSES = flags.DEFINE_list(
  'classes', ['0', '1', '2'], 'The three classes of the projections.'
)


def main(paths):
  _processes.refuse_several('diagnose')
  from tqdm import tqdm

  from maxsup_jax.reports import compared, report
  from maxsup_jax.reports.directory import Directory
  from maxsup_jax.reports.measured import Measured
  from maxsup_jax.training.provenance import provenance

  if not paths:
    raise _cli.UsageError('no .npz files given; see --help')
  if _OUT.value is None:
    raise _cli.UsageError('--out is needed: the directory of the report')
  if _TRAIN.value and len(_TRAIN.value) != len(paths):
    raise _cli.UsageError(
      f'--train has {len(_TRAIN.value)} files; expected {len(paths)}, one '
      'for each model'
    )
  options = _options()
  sections = _SECTIONS.value or list(report.SECTIONS)
  report.check_sections(sections)
  out = Directory(Path(_OUT.value), report.KIND, overwrite=_OVERWRITE.value)

  def bar(what, total):
    return tqdm(
      desc=what, total=total, file=sys.stderr, leave=False, dynamic_ncols=True
    )

  files = [*paths, *_TRAIN.value]
  with bar('reading', len(files)) as progress:
    outputs = compared.read_all(paths, _NAMES.value, progress.update)
    train = [None] * len(outputs)
    if _TRAIN.value:
      names = [o.name for o in outputs]
      train = compared.read_all(_TRAIN.value, names, progress.update)
      compared.check_same_classes([outputs[0], *train])
      for pair in zip(outputs, train):
        compared.check_same_model(*pair)
  models = [Measured(o, t) for o, t in zip(outputs, train)]
  with bar('measuring', len(sections)) as progress:
    built = report.build(models, options, sections, progress.update)
  page = report.write(out, built, models, options, provenance())
  print(report.as_text(built))
  print(page)
  return 0


def _options():
  """Reads the flags, and refuses what is wrong before any file is read."""
  from maxsup_jax.reports.measured import Options

  return Options(
    held_out=_HELD_OUT.value,
    seeds=_cli.whole_numbers('seeds', _SEEDS.value),
    resamples=_RESAMPLES.value,
    level=_LEVEL.value,
    bins=_BINS.value,
    classes=_cli.whole_numbers('classes', _CLASSES.value),
  )


if __name__ == '__main__':
  _cli.run(main, files=True)
