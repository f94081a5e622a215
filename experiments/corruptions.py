"""Evaluates trained networks on corrupted images: CIFAR-10-C, ImageNet-C.

  python -m experiments.corruptions --workdir=runs/maxsup --out=corruptions
  python -m experiments.corruptions --workdir=runs/ce --workdir=runs/ls \
    --workdir=runs/maxsup --out=corruptions

For each of 15 corruptions and 5 severities (Hendrycks and Dietterich, 2019) it
measures error, NLL and ECE of the whole dataset, and of the run's own
evaluation split, which has no corruption. The datasets are those of tfds, named
`cifar10_corrupted/fog_3` and the like, which must have been prepared; or those
of a directory as it was published, --dataset=DIR: NAME.npy and labels.npy of
CIFAR-10-C and CIFAR-100-C, CORRUPTION/SEVERITY/CLASS/ of ImageNet-C. Runs on
digits and glyphs have four corruptions of our own (--dataset=own).

Into --out it writes results.json, with the means over all datasets and their
standard deviation over corruptions, results.csv, with a line for each dataset,
the picture corruptions.png, and results.jsonl, to which each dataset is added
as soon as it is finished: after an interruption the same command goes on from
there, and more corruptions, severities or runs may be asked for later.

NLL is plain cross-entropy, and ECE has 15 bins over all examples of a dataset.
The numbers of Table 8 of MaxSup (Zhou et al., NeurIPS 2025) are others: as its
code computes them, the NLL is the training objective, so with the smoothed
labels of LS and the penalty of MaxSup, and the ECE is that of 100 images,
averaged, which is larger.

The images of imagenet2012_corrupted are 224x224 and final: what the run's
`eval_transform` only does for the size (resize, resize_exact, center_crop) is
left out, also where clean images are evaluated at another size. A model that
takes no other size is refused, unless --transform says what to do; '' is
nothing at all.

All devices of one process are used; several processes are refused.
"""

import sys

from absl import flags

from experiments import _cli, _processes

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'A run to evaluate; repeat it to compare runs.'
)
_DATASET = flags.DEFINE_string(
  'dataset',
  None,
  'cifar10_corrupted or imagenet2012_corrupted of tfds; a directory of '
  'CIFAR-10-C, CIFAR-100-C or ImageNet-C; or own, four corruptions of the '
  "run's evaluation split. By default that of the training dataset.",
)
_CORRUPTIONS = flags.DEFINE_list(
  'corruptions',
  [],
  "Names, or 'all' for the 15 standard ones and the 4 extra ones; by default "
  'the standard ones.',
)
flags.DEFINE_list(
  'severities', ['1', '2', '3', '4', '5'], 'Severities, from 1 to 5.'
)
_TRANSFORM = flags.DEFINE_string(
  'transform',
  None,
  "Transform of the corrupted images in place of the run's eval_transform, "
  "such as 'resize(256) | center_crop(224)'; empty for none. See above.",
)
_OUT = flags.DEFINE_string(
  'out',
  None,
  'Directory of the results; by default, for a single run, '
  'WORKDIR/corruptions/DATASET-STEP, or -ema.',
)
_cli.define_run_flags(split=False)


def main():
  workdirs = _cli.needed('workdir')
  severities = _cli.numbers('severities')
  _processes.refuse_several('corruptions')
  _cli.check_runs(*workdirs, images=True)
  from maxsup_jax.reports.corruptions import heat_maps
  from maxsup_jax.studies import corruption_results as results
  from maxsup_jax.studies import corruptions

  study = corruptions.prepare(
    workdirs,
    _OUT.value,
    dataset=_DATASET.value,
    corruptions=_CORRUPTIONS.value,
    severities=severities,
    transform=_TRANSFORM.value,
    **_cli.values('step', 'weights', 'data_dir'),
  )
  _cli.keep_compiled(workdirs[0])
  try:
    found = corruptions.run(study)
  except KeyboardInterrupt:
    print(
      f'interrupted; finished results are in {study.directory}; the same '
      'command resumes',
      file=sys.stderr,
    )
    return 130
  runs = found['runs']
  corruptions.write(study, found, heat_maps(runs, corruptions.caption(study)))
  print(f'\n{results.table(runs)}')
  count = len(runs[0]['by_corruption'])
  print(
    f'\nmeans over {count} corruptions x {len(study.sizes) // count} '
    f'severities of {study.title}; written to {study.directory}'
  )
  return 0


if __name__ == '__main__':
  _cli.run(main)
