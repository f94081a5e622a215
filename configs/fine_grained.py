r"""ResNet-50 on CUB-200-2011 and Stanford Cars, from the paper on MaxSup.

Zhou et al., MaxSup: Overcoming Representation Collapse in Label Smoothing,
NeurIPS 2025 (arXiv 2502.15798), Table 6.

  python -m experiments.train --config=configs/fine_grained.py
  python -m experiments.train --config=configs/fine_grained.py:data=cars,loss=ls
  python -m experiments.train \
    --config=configs/fine_grained.py:init_from=runs/resnet50
  python -m experiments.train --config=configs/fine_grained.py:debug=true

  data=cub      CUB-200-2011 (tfds: caltech_birds2011); or cars (cars196)
  init_from=    the work directory of a run on ImageNet, with whose newest
                weights this one begins; empty: at random. The classifier is new
                if that run has another number of classes, and else is kept
  loss=maxsup   ce, ls or any other key of configs.common.OBJECTIVES
  alpha=paper   linear for ls and maxsup; constant, linear, linear_last
  seed=0, debug=false, mock=true: see configs/common.py

Top-1 accuracy in the paper, in %, without spread:

            ce     ls     ols    zipf   maxsup
  CUB       80.88  81.96  82.33  81.40  82.53
  Cars      90.27  91.64  91.96  90.99  92.25

The network, its first weights, the optimizer, its rate, the batch, the epochs
and the images are stated nowhere: nothing here is the paper's recipe. What we
take is that of a notebook of a co-author, which ran on another dataset
(Flowers-102), from scratch, with label smoothing of 0.1 beside cross-entropy:
ResNet-50, images squashed to 512x512, random crops of 448 after padding by 8,
mirror, the central 448 in evaluation, batch 64, 100 epochs, SGD with momentum
0.9, rate 0.01, decay 5e-4. Its cosine is meant for 128 epochs, so it ends at
12% of the rate; ours ends at 0 after 100. We let the decay act on every
parameter, as PyTorch does, and take neither Nesterov momentum nor a warm-up;
mean and deviation are ImageNet's.

init_from is empty as in that notebook. Accuracies like those above are not to
be expected from scratch: they suggest weights from ImageNet. A network from
configs/imagenet_convnet.py has BlurPool in its recipe a, which then has to be
asked for here, too: --config.model.blur_pool=true.

The paper's hardware and time: unknown. Here: unknown, not run.
"""

from configs import common
from maxsup_jax.tasks.config import default_config

DATASETS = {'cub': 'caltech_birds2011', 'cars': 'cars196'}


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    data=tuple(DATASETS),
    init_from='',
    loss='maxsup',
    alpha=common.ALPHAS,
    seed=0,
    debug=False,
    mock=True,
  )
  config = default_config()
  config.seed = args.seed
  config.duration = '100 epochs'
  config.batch_size = 64
  config.eval_batch_size = 256
  large, size, padding = (36, 32, 2) if args.debug else (512, 448, 8)
  config.dataset.name = DATASETS[args.data]
  config.dataset.mean = common.IMAGENET_MEAN
  config.dataset.std = common.IMAGENET_STD
  config.dataset.train_transform = (
    f'resize_exact({large}) | random_crop({size}, padding={padding}) | flip'
  )
  config.dataset.eval_transform = f'resize_exact({large}) | center_crop({size})'
  config.model = {'name': 'resnet50', 'dtype': 'bfloat16', 'blur_pool': False}
  config.init_from = args.init_from or None
  config.objective = common.objective(args.loss, args.alpha)
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.01
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = False
  config.optimizer.weight_decay = 5e-4
  config.optimizer.decay = common.EVERYTHING
  config.schedule.name = 'cosine'
  config.checkpoint_every = '5 epochs'
  return common.debug(config, mock=args.mock) if args.debug else config
