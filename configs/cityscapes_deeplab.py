"""DeepLabV3+ on Cityscapes, from the paper on selective classification.

Xia et al., Towards Understanding Why Label Smoothing Degrades Selective
Classification and How to Fix It, ICLR 2025 (arXiv 2403.14715): Cityscapes.

  python -m experiments.train \
    --config=configs/cityscapes_deeplab.py:loss=ce,pretrain=resnet101.pth
  python -m experiments.train \
    --config=configs/cityscapes_deeplab.py:loss=ls,pretrain=resnet101.pth
  python -m experiments.train --config=configs/cityscapes_deeplab.py:debug=true

  pretrain=        a file of PyTorch weights of ResNet-101, or a run of
                   configs/imagenet_convnet.py with model=resnet101; the paper
                   has torchvision's second ones
  stride=32        of the ResNet: 32 is what their code has, whatever its
                   options say; 16 and 8 dilate it, as the paper of DeepLabV3+
  loss=maxsup      ce, ls or any other key of configs.common.OBJECTIVES that
                   looks at each pixel alone
  alpha=constant   linear: from 0.1 towards 0.2; linear_last
  smoothing=0.2    the strength of ls and maxsup
  seed=0
  debug=false, mock=true: see configs/common.py; with the tiny model, unless
                   pretrain is given

Their error of pixels and area under the risk-coverage curve, of 5,000 pixels of
12 images at a time, in %: ce 4.7 and 0.38, ls 4.9 and 0.67. To compare:

  python -m experiments.extract --workdir=DIR --pixels=417
  python -m experiments.diagnose DIR/extract/*.npz

whose intervals draw whole images, as pixels of one are not independent.

As their code: 16 crops of 512x512 from images of 1024x2048, scaled by 0.5 to 2
with antialiasing, colour jitter of 0.5, mirrored, padded with black; SGD at
1e-2, decay 1e-4, 30,000 steps, a line to zero by epochs, dropout 0.1. Whole
images are evaluated. Here bfloat16 stands for their float16, and the statistics
of BatchNorm are over all devices.

The paper's hardware and time: unknown. Hardware and time here: unknown, not
run. Needs tfds's cityscapes/semantic_segmentation, which is downloaded by hand.
"""

from configs import common
from maxsup_jax.tasks.config import default_config


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    pretrain='',
    stride=(32, 16, 8),
    loss='maxsup',
    alpha=('constant', 'linear', 'linear_last'),
    smoothing=0.2,
    seed=0,
    debug=False,
    mock=True,
  )
  config = default_config('segmentation')
  config.seed = args.seed
  config.duration = '30000 steps'
  config.eval_batch_size = 8
  dataset = config.dataset
  dataset.name = 'cityscapes/semantic_segmentation'
  dataset.eval_split = 'validation'
  dataset.mean, dataset.std = common.IMAGENET_MEAN, common.IMAGENET_STD
  dataset.train_transform = (
    'random_resize(ratio=(0.5, 2.0), antialias=True) | random_crop(512) | '
    'flip | color_jitter(0.5, 0.5, 0.5) | pad(512, fill=0)'
  )
  config.objective = common.objective(
    args.loss, args.alpha, smoothing=args.smoothing, usual=0.2
  )
  config.model = {
    'name': 'deeplabv3plus_resnet101',
    'dtype': 'bfloat16',
    'dilated_stages': {32: 0, 16: 1, 8: 2}[args.stride],
  }
  config.init_from = args.pretrain or None
  config.optimizer.update(
    {
      'name': 'sgd',
      'learning_rate': 1e-2,
      'weight_decay': 1e-4,
      'decay': common.EVERYTHING,
      'nesterov': False,
    }
  )
  config.schedule.warmup = '0 steps'
  config.schedule.per = 'epoch'
  config.eval_every = config.checkpoint_every = '3000 steps'
  if args.debug:
    if not args.pretrain:
      config.model = {'name': 'deeplabv3plus_resnet8', 'dtype': 'float32'}
    dataset.train_transform = (
      'random_resize(ratio=(0.5, 2.0), antialias=True) | random_crop(32) | '
      'flip | color_jitter(0.5, 0.5, 0.5) | pad(32, fill=0)'
    )
    dataset.eval_transform = 'resize_exact(32, 64)'
    common.debug(config, mock=args.mock)
  return config
