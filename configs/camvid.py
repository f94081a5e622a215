"""A small segmenter on CamVid, street scenes of 11 classes, from scratch.

  python -m experiments.train --config=configs/camvid.py:path=data/camvid
  python -m experiments.train --config=configs/camvid.py:loss=ce,path=DIR
  python -m experiments.train --config=configs/camvid.py:debug=true

  path=camvid      the directory with train, trainannot, val, valannot, test and
                   testannot, as SegNet distributes it
  loss=maxsup      ce, ls or any other key of configs.common.OBJECTIVES that
                   looks at each pixel alone
  alpha=constant   linear: from 0.1 towards 0.2; linear_last
  seed=0
  model=upernet_vit_tiny  or deeplabv3plus_resnet8
  debug=false, mock=true: see configs/common.py

For two cores: images are resized to 96x72 and cropped to 64x64, 1,500 steps of
16, AdamW at 2e-3. Training evaluates the test split at 96x72, and
experiments.segment at the size of the files. A pole is one pixel wide here, so
nothing of this compares with published scores, which are for 480x360 and more
(ENet 51.3, SegNet 46.4 to 55.6, FC-DenseNet103 66.9; mIoU in %). A model that
says road everywhere has 2.4. Frames of one sequence are nearly the same image:
the 233 test images are far fewer independent ones.
"""

from configs import common
from maxsup_jax.tasks.config import default_config

CLASSES = (
  'sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist'
)


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    path='camvid',
    loss='maxsup',
    alpha=('constant', 'linear', 'linear_last'),
    seed=0,
    model=('upernet_vit_tiny', 'deeplabv3plus_resnet8'),
    debug=False,
    mock=True,
  )
  config = default_config('segmentation')
  config.seed = args.seed
  config.duration = '1500 steps'
  dataset = config.dataset
  dataset.name = f'pairs:{args.path}'
  dataset.classes = CLASSES
  # That is void.
  dataset.ignore = (11,)
  dataset.mean, dataset.std = common.IMAGENET_MEAN, common.IMAGENET_STD
  dataset.eval_transform = 'resize_exact(72, 96)'
  dataset.train_transform = (
    f'{dataset.eval_transform} | random_crop(64) | flip | '
    'photometric_distortion'
  )
  config.objective = common.objective(args.loss, args.alpha)
  config.model.name = args.model
  config.eval_every = config.checkpoint_every = '300 steps'
  if args.debug:
    dataset.train_transform = 'resize_exact(32)'
    dataset.eval_transform = 'resize_exact(32)'
    common.debug(config, mock=args.mock)
  return config
