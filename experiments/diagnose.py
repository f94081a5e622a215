"""Measures what the papers measure, from anyone's logits, onto one page.

  python -m experiments.diagnose ce.npz ls.npz maxsup.npz --out=report

Each file holds the `logits` [N, K] and `labels` [N] of one model and, where
there are any, its `features` [N, D], the `weights` [K, D] and `bias` [K] of its
last layer; `python -m experiments.extract` writes them, numpy.savez does, too.
A .pt or .safetensors file holds tensors of these names; logits in .npy have
their labels beside them, in labels.npy; a .csv file has a column `label` and
one for each class. In Python, it is maxsup_jax.reports.report.report.
The first model is the one that the others are compared with. --train names the
files of the training split, in the same order.
"""

import sys

from absl import flags

from experiments import _cli, _processes

flags.DEFINE_string('out', None, 'The directory of the report.')
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace the report in --out.'
)
_TRAIN = flags.DEFINE_list(
  'train', [], 'Files of the training split, one for each model.'
)
_OOD = flags.DEFINE_list(
  'ood',
  [],
  'Files of examples that are of no class, one for each model; they need no '
  'labels.',
)
_NAMES = flags.DEFINE_list(
  'names', [], 'What to call the models, one name for each.'
)
_GROUP = flags.DEFINE_list(
  'group',
  [],
  'Which method each model is a seed of: equal names share a column and a '
  'colour. By default what `group` of the metadata says.',
)
_PROBABILITIES = flags.DEFINE_bool(
  'probabilities',
  False,
  'The `logits` of the files are probabilities: take their logarithm.',
)
_SECTIONS = flags.DEFINE_list(
  'sections', [], 'Sections of the report; by default all.'
)
flags.DEFINE_float(
  'held_out',
  0.2,
  'Share of the examples on which temperatures, norms and thresholds are '
  'chosen; results are on the others.',
)
flags.DEFINE_list(
  'seeds',
  ['0', '1', '2', '3', '4'],
  'Seeds of the splits into held-out and other examples; the first also '
  'seeds the bootstrap.',
)
flags.DEFINE_integer(
  'resamples', 1000, 'Bootstrap resamples; 0 for no intervals.'
)
flags.DEFINE_float('level', 0.95, 'Level of the intervals.')
flags.DEFINE_integer('bins', 15, 'Bins of the calibration errors.')
flags.DEFINE_bool(
  'full_curves',
  False,
  'Every point of the risk-coverage curves in the CSV file, not only what a '
  'figure can show.',
)
flags.DEFINE_list(
  'classes', ['0', '1', '2'], 'The three classes of the projections.'
)


def main(paths):
  _processes.refuse_several('diagnose')
  # What takes seconds to import is imported when nothing is wrong.
  from maxsup_jax.reports import compared, measured
  from maxsup_jax.reports.directory import Directory

  if not paths:
    raise _cli.UsageError('no files given; see --help')
  out = _cli.needed('out', 'the directory of the report')
  for flag in (_TRAIN, _OOD):
    if flag.value and len(flag.value) != len(paths):
      raise _cli.UsageError(
        f'--{flag.name} has {len(flag.value)} files; expected {len(paths)}, '
        'one for each model'
      )
  # What is wrong is refused before any file is read.
  options = {
    **_cli.values('held_out', 'resamples', 'level', 'bins', 'full_curves'),
    'seeds': _cli.numbers('seeds'),
    'classes': _cli.numbers('classes'),
  }
  measured.Options(**options)
  sections = _SECTIONS.value or measured.SECTIONS
  measured.check_sections(sections)
  for path in (*paths, *_TRAIN.value):
    compared.check_file(path)
  for path in _OOD.value:
    compared.check_file(path, labelled=False)
  out = Directory(out, measured.KIND, overwrite=_OVERWRITE.value)
  from tqdm import tqdm

  from maxsup_jax.reports import report
  from maxsup_jax.training.provenance import provenance

  def bar(what, total):
    return tqdm(
      desc=what, total=total, file=sys.stderr, leave=False, dynamic_ncols=True
    )

  made = report.report(
    paths,
    names=_NAMES.value,
    groups=_GROUP.value,
    train=_TRAIN.value,
    ood=_OOD.value,
    probabilities=_PROBABILITIES.value,
    sections=sections,
    provenance=provenance(),
    progress=bar,
    **options,
  )
  page = made.write(out)
  print(report.as_text(made.sections))
  print(page)
  return 0


if __name__ == '__main__':
  _cli.run(main, files=True)
