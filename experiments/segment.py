"""Evaluates a run of segmentation by a protocol, and shows what it predicts.

  python -m experiments.segment --workdir=DIR
  python -m experiments.segment --workdir=DIR --scale=2048,512 --views=mmseg0
  python -m experiments.segment --workdir=DIR --crop=512 --stride=341 \
    --out=FOLDER --predictions --pictures=6

Predictions are compared with the labels at the size of the files: logits are
interpolated, labels never are. Without --scale an image is seen as the run's
eval_transform gives it; with it, scaled into the rectangle LONG,SHORT. --crop
shows windows instead of the whole image. --views=mmseg0 or mmseg1 is the mean
of six scales, each also mirrored: those of the rectangle, as in mmsegmentation
0.x, by which published scores are, or of the image, as in 1.x.

Printed are mIoU, beside that of a model that says the most frequent class
everywhere, accuracies near boundaries and away from them, ECE, and a table of
all classes. --out writes them to FOLDER/segmentation.json, --predictions a PNG
of class ids for each image, with the colours of the classes, and --pictures
pictures.png: images with truth, prediction and confidence.
"""

import json
import sys
from pathlib import Path

from absl import flags

from experiments import _cli, _processes

_WORKDIR = flags.DEFINE_string('workdir', None, 'The run to evaluate.')
flags.DEFINE_list(
  'scale', None, 'LONG,SHORT: the rectangle that images are scaled into.'
)
_VIEWS = flags.DEFINE_enum(
  'views', 'one', ['one', 'mmseg0', 'mmseg1'], 'How often an image is seen.'
)
_CROP = flags.DEFINE_integer(
  'crop', None, 'The side of windows; by default images are whole.'
)
_STRIDE = flags.DEFINE_integer(
  'stride', None, 'Of the windows; by default two thirds of --crop.'
)
_OUT = flags.DEFINE_string('out', None, 'The directory that files go to.')
_PREDICTIONS = flags.DEFINE_bool(
  'predictions', False, 'Write the predictions, as PNG, to --out.'
)
_PICTURES = flags.DEFINE_integer(
  'pictures', 0, 'Draw so many of the images.', lower_bound=0, upper_bound=50
)
_cli.define_run_flags()


def main():
  _processes.refuse_several('segment', '')
  from maxsup_jax import files, tasks
  from maxsup_jax.tasks import segmenting

  scale = None
  if flags.FLAGS['scale'].value:
    scale = _cli.numbers('scale')
  protocol = segmenting.Protocol(
    scale, _VIEWS.value, _CROP.value, _STRIDE.value
  )
  _cli.check_runs(_cli.needed('workdir'))
  if (_PREDICTIONS.value or _PICTURES.value) and not _OUT.value:
    raise _cli.UsageError('--out is needed: the directory that files go to')
  out = Path(_OUT.value) if _OUT.value else None
  if out:
    files.check_writable(out / 'segmentation.json')
  given = _cli.values('step', 'split', 'weights', 'data_dir')
  loaded = tasks.load_run(_WORKDIR.value, **given)
  _cli.keep_compiled(loaded.workdir.path)
  from tqdm import tqdm

  from maxsup_jax.reports import segmentation as pictures

  source = loaded.task.eval_source
  evaluation = segmenting.Evaluation(source.num_classes)
  colors = pictures.palette(source.num_classes)
  label_map = getattr(source, 'label_map', None)
  if label_map is not None and label_map.colors is not None:
    colors = label_map.colors
  drawn = []
  progress = tqdm(
    segmenting.predict(loaded, protocol),
    total=len(source),
    unit=' images',
    mininterval=0.2 if sys.stderr.isatty() else 10,
  )
  if _PREDICTIONS.value:
    with files.one_line_errors(out):
      (out / 'predictions').mkdir(exist_ok=True)
  for i, found in enumerate(progress):
    evaluation.add(found)
    if _PREDICTIONS.value:
      path = out / 'predictions' / f'{i:06}.png'
      pictures.save(path, found.classes, colors, overwrite=True)
    if len(drawn) < _PICTURES.value:
      drawn.append(found)
  report = evaluation.report()
  print('\n' + evaluation.table(source.label_names))
  print(
    f'\n{report["images"]:,} images of {source.name}: mIoU '
    f'{report["miou"]:.2%} (one class everywhere gives '
    f'{report["constant_miou"]:.2%}), mean accuracy {report["macc"]:.2%}, '
    f'accuracy {report["accuracy"]:.2%} (near boundaries '
    f'{report["boundary_accuracy"]:.2%}, away from them '
    f'{report["interior_accuracy"]:.2%}), ECE {report["ece"]:.2%}'
  )
  if loaded.task.made_up:
    print('The images are random, so these numbers mean nothing.')
  if drawn:
    figure = pictures.figure(
      *zip(*drawn), names=source.label_names, colors=colors
    )
    files.write(out / 'pictures.png', pictures.png(figure))
  if out:
    about = {
      'workdir': str(loaded.workdir.path),
      'step': loaded.step,
      'weights': loaded.weights,
      'split': loaded.split,
      'scale': scale,
      'views': _VIEWS.value,
      'crop': _CROP.value,
      'stride': _STRIDE.value,
      **report,
      'classes': evaluation.confusion.compute().rows(source.label_names),
    }
    text = json.dumps(files.jsonable(about), indent=2)
    files.write(out / 'segmentation.json', text + '\n')
    print(out)
  return 0


if __name__ == '__main__':
  _cli.run(main)
