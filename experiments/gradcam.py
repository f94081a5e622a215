"""Draws where trained networks see the evidence for a class: Grad-CAM.

  python -m experiments.gradcam --workdir=runs/ls --workdir=runs/maxsup \
    --images=0,5,7 --out=cam.png

Rows are images, columns the networks of the runs. Above each overlay stands the
predicted class, its probability, and whether it is right.
"""

from absl import flags

from experiments import _cli, _processes

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'A run to look at; repeat it for more columns, in this order.'
)
_IMAGES = flags.DEFINE_string(
  'images',
  None,
  'What to show, separated by commas: indices into the split, or image '
  'files, which are scaled and cropped to the size of the training images.',
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
  'The class to explain: predicted, label or a class id.',
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
  'The layer whose output is weighted, such as layer3_0 or block11/norm1; '
  'by default the last block of a ResNet and the first norm of the last '
  'block of a ViT.',
)
_cli.define_run_flags()
_cli.define_dataset()


def main():
  workdirs = _cli.needed('workdir')
  _processes.refuse_several('gradcam')
  items = [i.strip() for i in (_IMAGES.value or '').split(',') if i.strip()]
  if not items:
    raise _cli.UsageError('--images is needed: indices or files, such as 0,5,7')

  from maxsup_jax import files, tasks
  from maxsup_jax.studies.run_names import run_names

  files.check_ending(_OUT.value, files.FIGURES)
  files.refuse_existing(_OUT.value, overwrite=_OVERWRITE.value)
  names = run_names(workdirs)
  _cli.check_runs(*workdirs, images=True)
  from maxsup_jax.reports import gradcam as report
  from maxsup_jax.studies import gradcam

  given = _cli.values('step', 'weights', 'data_dir', 'split', 'dataset')
  networks = [
    gradcam.network(tasks.load_run(workdir, **given), name, _LAYER.value)
    for workdir, name in zip(workdirs, names)
  ]
  gradcam.check_agree(networks, by_index=any(map(gradcam.is_index, items)))
  images = gradcam.read_images(items, networks[0].task)
  classes = gradcam.targets(_TARGET.value, images.labels, networks)
  out = files.check_writable(_OUT.value)
  _cli.keep_compiled(_WORKDIR.value[0])
  columns = [gradcam.column(one, images, classes) for one in networks]
  figure = report.gradcam_figure(
    images.visible,
    images.titles,
    columns,
    normalization=_NORMALIZE.value,
    caption=gradcam.caption(networks, _TARGET.value),
  )
  report.save(figure, out)
  print(f'written to {out}')
  return 0


if __name__ == '__main__':
  _cli.run(main)
