"""A first run: a small ResNet on the 1,797 handwritten digits of scikit-learn.

  python -m experiments.train --config=configs/digits.py

Arguments, after a colon and separated by commas:

  loss=maxsup     ce, ls or any other key of configs.common.OBJECTIVES
  alpha=constant  as there, or linear: from 0.1 towards 0.2, epoch by epoch
  model=resnet8   any model; vit_tiny, vit_small and vit_base get 2x2 patches
  seed=0, debug=false, mock=true: see configs/common.py

To follow neural collapse and calibration during training, on both splits:

  python -m experiments.train --config.diagnostics_every='5 epochs'

On two CPU cores (AMD EPYC, jax 0.10.2) the default takes less than a minute and
reaches 98.87% of the 355 test digits. Over the seeds 0, 1 and 2 that is 98.87%
to 99.72%; with loss=ls 99.15% to 99.44%, with loss=ce 99.44% to 99.72%.
model=vit_tiny is much slower: its 30 epochs were not run; 3 of them took 67 s
on another machine, busy with other work.
"""

from configs import common
from maxsup_jax.tasks.config import default_config


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    loss='maxsup',
    alpha=('constant', 'linear', 'linear_last'),
    model='resnet8',
    seed=0,
    debug=False,
    mock=True,
  )
  config = default_config()
  config.seed = args.seed
  config.duration = '30 epochs'
  config.batch_size = 64
  config.eval_batch_size = 360
  config.dataset.name = 'digits'
  config.dataset.mean = (0.3,)
  config.dataset.std = (0.38,)
  config.dataset.train_transform = 'pad_and_crop(1)'
  config.dataset.in_memory = True
  config.objective = common.objective(args.loss, args.alpha)
  options = common.model_options(args.model)
  if 'patch_size' in options:
    # 16 patches of 2x2 pixels, and what vision transformers train with.
    config.model = {'name': args.model, 'dtype': 'float32', 'patch_size': 2}
    config.optimizer.name = 'adamw'
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 1.0
  else:
    config.model = {'name': args.model, 'dtype': 'float32'}
    if 'stem' in options:
      config.model.stem = 'cifar'
    if args.model == 'resnet8':
      # As accurate here as the default width, and four times as fast.
      config.model.width = 16
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
  config.schedule.name = 'cosine'
  config.schedule.warmup = '2 epochs'
  config.log_every = '1 epoch'
  config.eval_every = '5 epochs'
  config.checkpoint_every = '5 epochs'
  return common.debug(config, mock=args.mock) if args.debug else config
