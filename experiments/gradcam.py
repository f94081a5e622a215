"""Draws where trained networks see the evidence for a class: Grad-CAM.

  python -m experiments.gradcam --workdir=runs/ls --workdir=runs/maxsup \
    --images=0,5,7 --out=cam.png

Rows are images, columns the networks of the runs. Above each overlay stands the
predicted class, its probability, and whether it is right.
"""

import pathlib

from absl import flags

from experiments import _cli, _compilation, _processes

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'A run to look at; once for each run, in the order of columns.'
)
_IMAGES = flags.DEFINE_string(
  'images',
  None,
  'What to show, separated by commas: indices into the split, or image files, '
  'which are scaled and cropped to the size that the runs were trained on.',
)
_OUT = flags.DEFINE_string(
  'out', 'gradcam.png', 'The figure to write: .png, .svg or .pdf.'
)
_OVERWRITE = flags.DEFINE_bool(
  'overwrite', False, 'Replace the figure if it exists.'
)
_TARGET = flags.DEFINE_string(
  'target',
  'predicted',
  'Evidence for which class: predicted, label or a class id.',
)
_NORMALIZE = flags.DEFINE_enum(
  'normalize',
  'map',
  ['map', 'row'],
  'Divide each map by its own largest value, or by the largest of its row.',
)
_LAYER = flags.DEFINE_string(
  'layer',
  None,
  'Whose output to weight, such as layer3_0 or block11/norm1; by default the '
  'last block of a ResNet and the first norm of the last block of a ViT.',
)
_SPLIT = flags.DEFINE_string(
  'split',
  None,
  "A split of the dataset; by default the runs' eval_split.",
)
_STEP = flags.DEFINE_integer(
  'step', None, "Which checkpoint of every run; by default each one's newest."
)
_WEIGHTS = flags.DEFINE_enum(
  'weights', 'raw', ['raw', 'ema'], 'The weights as trained, or averaged ones.'
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, "Where datasets are; tfds's own default if not given."
)

flags.declare_key_flag('compilation_cache')


def main():
  if not _WORKDIR.value:
    raise _cli.UsageError('--workdir is needed: the directory of a run')
  _processes.refuse_several('gradcam')
  items = [i.strip() for i in (_IMAGES.value or '').split(',') if i.strip()]
  if not items:
    raise _cli.UsageError('--images is needed: indices or files, such as 0,5,7')

  from experiments import _gradcam
  from maxsup_jax.reports import gradcam as report

  report.check_path(_OUT.value)
  if pathlib.Path(_OUT.value).exists() and not _OVERWRITE.value:
    raise _cli.UsageError(
      f'--out={_OUT.value} exists; choose another, or add --overwrite'
    )
  names = _gradcam.names_of(_WORKDIR.value)
  runs = [
    _gradcam.restore(
      workdir,
      name=name,
      data_dir=_DATA_DIR.value,
      split=_SPLIT.value,
      step=_STEP.value,
      layer=_LAYER.value,
      ema=_WEIGHTS.value == 'ema',
    )
    for workdir, name in zip(_WORKDIR.value, names)
  ]
  _gradcam.check_runs_agree(runs, by_index=any(map(_gradcam.is_index, items)))
  images = _gradcam.read_images(items, runs[0].run)
  classes = _gradcam.targets(_TARGET.value, images.labels, runs)
  out = _cli.checked_out(_OUT.value)
  _compilation.keep_compiled(pathlib.Path(_WORKDIR.value[0]))
  columns = [_gradcam.column(run, images, classes) for run in runs]
  figure = report.gradcam_figure(
    images.visible,
    images.titles,
    columns,
    normalization=_NORMALIZE.value,
    caption=_gradcam.caption(runs, _TARGET.value),
  )
  report.save(figure, out)
  print(f'written to {out}')
  return 0


if __name__ == '__main__':
  _cli.run(main)
