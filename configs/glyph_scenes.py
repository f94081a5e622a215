"""A small DeepLabV3+ on generated scenes of letters: which pixel is what.

  python -m experiments.train --config=configs/glyph_scenes.py
  python -m experiments.train --config=configs/glyph_scenes.py:loss=ls
  python -m experiments.train --config=configs/glyph_scenes.py:debug=true

  loss=maxsup      ce, ls or any other key of configs.common.OBJECTIVES that
                   looks at each pixel alone
  alpha=constant   linear: from 0.1 towards 0.2; linear_last
  seed=0           of the training; the scenes stay the same
  letters=5        how many letters there are: O, Q, C, G, D, A, B, ...
  train=1000       the number of training scenes
  test=500         the number of test scenes
  size=64          the side of the images: a multiple of 8 from 32 to 128
  difficulty=easy  easy, medium or hard; see maxsup_jax.data.glyph_scenes
  model=deeplabv3plus_resnet8  or upernet_vit_tiny, which found no letter in 10
                   epochs
  debug=false      true: a few steps, to see that it runs, on 32 scenes of
                   32x32 pixels and 16 to test, or what train, test and size say

The scenes are generated on first use. Most pixels are background: look at mIoU,
beside that of a model that says background everywhere. The recipe is ours, of
no paper: batches of 16, AdamW at 2e-3, 15 epochs. The neck of UperNet has 32
channels, not 64, which saves about a third of the operations.
"""

from configs import common
from maxsup_jax.tasks.config import default_config

# The numbers of scenes and the side of an image.
FULL = {'train': 1000, 'test': 500, 'size': 64}
DEBUG = {'train': 32, 'test': 16, 'size': 32}


def get_config(arg=None):
  args = parse_arg(arg, FULL)
  if args.debug:
    args = parse_arg(arg, DEBUG)
  config = default_config('segmentation')
  config.seed = args.seed
  config.duration = '15 epochs'
  config.dataset.name = (
    f'glyph_scenes/{args.letters}x{args.train}x{args.test}_{args.size}_'
    f'{args.difficulty}'
  )
  # Letters are not symmetric: they are not mirrored.
  config.dataset.train_transform = f'random_crop({args.size}, padding=4)'
  config.dataset.in_memory = True
  config.objective = common.objective(args.loss, args.alpha)
  config.model.name = args.model
  if args.model == 'upernet_vit_tiny':
    config.model.neck_features = 32
  config.eval_every = config.checkpoint_every = '5 epochs'
  return common.debug(config, mock=False) if args.debug else config


def parse_arg(arg, sizes):
  return common.parse_arg(
    arg,
    loss='maxsup',
    alpha=('constant', 'linear', 'linear_last'),
    seed=0,
    letters=5,
    difficulty=('easy', 'medium', 'hard'),
    model=('deeplabv3plus_resnet8', 'upernet_vit_tiny'),
    debug=False,
    **sizes,
  )
