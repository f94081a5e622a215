"""The ImageNet study of MaxSup over seeds, for a cluster.

  python -m experiments.study --config=configs/study_imagenet.py \
    --workdir=runs/study_imagenet --dry_run

Arguments, after a colon and separated by commas:

  seeds=3      so many, from 0
  model=resnet50  resnet18, resnet101, mobilenet_v2
  recipe=a     200 epochs, or b: 90, see configs/imagenet_convnet.py
  debug=false  true: two seeds, a few steps each on random images

Cross-entropy, label smoothing, MaxSup and the logit penalty, each with the
recipe of configs/imagenet_convnet.py, and neural collapse every 20 epochs.
Transfer is to CIFAR-10 at 224 pixels, over the 45 strengths of the paper. It
needs imagenet2012 and cifar10 of tfds. It was not run; docs/studies.md has the
script of a job array.
"""

from configs import common, imagenet_convnet
from maxsup_jax.studies import claims
from maxsup_jax.studies.study import Study, Transfer

LOSSES = ('ce', 'ls', 'maxsup', 'logit_penalty')


def get_study(arg=None):
  args = common.parse_arg(
    arg,
    seeds=3,
    model=('resnet50', 'resnet18', 'resnet101', 'mobilenet_v2'),
    recipe=('a', 'b'),
    debug=False,
  )

  def run(loss):
    debug = ',debug=true' if args.debug else ''
    config = imagenet_convnet.get_config(
      f'loss={loss},model={args.model},recipe={args.recipe}{debug}'
    )
    if not args.debug:
      config.diagnostics_every = '20 epochs'
    return config

  variants = {loss: run(loss) for loss in LOSSES}
  return Study(
    name='imagenet',
    title='Objectives on ImageNet',
    about=(
      f'{args.model}, recipe {args.recipe} of configs/imagenet_convnet.py.'
    ),
    variants=variants,
    seeds=tuple(range(2 if args.debug else args.seeds)),
    claims=claims.among(variants),
    transfer=Transfer('cifar10', image_size=224),
    # Outputs of 1.28 million images have no place for augmentations of two
    # classes; the corrupted test sets are a program of their own.
    extras=(),
  )
