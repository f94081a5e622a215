r"""ImageNet for selective classification: ResNet-50 and ViT-S/16.

Xia et al., Towards Understanding Why Label Smoothing Degrades Selective
Classification and How to Fix It, ICLR 2025 (arXiv 2403.14715). The numbers here
are those of the authors' code and of the outputs stored in it, not of a table:
its notebooks plot risk-coverage curves of these two models.

  python -m experiments.train --config=configs/imagenet_selective.py:loss=ls
  python -m experiments.train --config=configs/imagenet_selective.py:loss=ce
  python -m experiments.train \
    --config=configs/imagenet_selective.py:model=vit_small
  python -m experiments.train --config=configs/imagenet_selective.py:debug=true

and then `experiments.extract` and `experiments.diagnose` on the work directory,
for risk, coverage and logit normalisation.

  model=resnet50  or vit_small (with SAM)
  smoothing=0.2   the alpha of ls, maxsup and the rows of its ablation
  synced=false    of SAM: true takes its direction from all devices' gradient
  loss=ls         ce, maxsup or any other key of configs.common.OBJECTIVES
  alpha=constant  linear and linear_last are for comparison, not this paper's
  seed=0, debug=false, mock=true: see configs/common.py

Stored outputs, single runs, on the 50,000 validation images, in %. They are
error / AURC of the largest probability:

               ce           ls (0.2)
  ResNet-50    23.0 / 6.53  22.5 / 7.55
  ViT-S/16     25.8 / 7.43  24.9 / 7.86

With the norm p of the logit normalisation tuned on 10,000 of the images and
tested on the other 40,000, ResNet-50 has an AURC of 6.56 (ce, p=8) and 6.22
(ls, p=5). What the paper's own tables report was not available to us.

ResNet-50: SGD with momentum 0.9, not Nesterov, rate 0.4, decay 1e-4, 120
epochs, 4 GPUs x 256, one rate an epoch: 5 of warm-up from 1e-4 of the rate, a
cosine to 0 over the other 115. fp16 there, bfloat16 here.
ViT-S/16: SAM (rho 0.2) around AdamW, rate 3e-3, decay 0.3, 300 epochs, 4 GPUs x
512, 15 epochs of warm-up likewise, dropout 0.1 before the classifier, float32,
and each element of the gradient clipped to [-1, 1] in both passes. In the
first of them each GPU uses the gradient of its own images: so does the card,
which makes it depend on the number of devices (theirs was 4); synced=true does
not. Older versions of timm drop inside the network too; which version was used
is not known.
Both: bicubic random crops and mirror; resize 256 (bicubic, too, we take it) and
central 224. The batch of all GPUs together is inferred from one each. Nothing
is exempt from decay in their files: we let it act on every parameter, as
PyTorch does.
Their checkpoints are chosen on the validation images that they report on (the
notebooks load the last one, as one does here).

Hardware: 4 GPUs of unknown kind; time: unknown. Here: unknown, not run. Needs
tfds's imagenet2012.
"""

from configs import common
from maxsup_jax.tasks.config import default_config

SMOOTHING = 0.2


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    model=('resnet50', 'vit_small'),
    smoothing=SMOOTHING,
    synced=False,
    loss='ls',
    alpha=('constant', 'linear', 'linear_last'),
    seed=0,
    debug=False,
    mock=True,
  )
  config = default_config()
  config.seed = args.seed
  config.eval_batch_size = 1024
  size, large = (32, 37) if args.debug else (224, 256)
  config.dataset.name = 'imagenet2012'
  config.dataset.eval_split = 'validation'
  config.dataset.mean = common.IMAGENET_MEAN
  config.dataset.std = common.IMAGENET_STD
  config.dataset.train_transform = (
    f"random_resized_crop({size}, interpolation='bicubic') | flip"
  )
  config.dataset.eval_transform = (
    f"resize({large}, interpolation='bicubic') | center_crop({size})"
  )
  config.objective = common.objective(
    args.loss, args.alpha, smoothing=args.smoothing, usual=SMOOTHING
  )
  config.optimizer.decay = common.EVERYTHING
  config.schedule.name = 'cosine'
  config.schedule.per = 'epoch'
  if args.model == 'resnet50':
    config.duration = '120 epochs'
    config.batch_size = 1024
    config.model = {'name': 'resnet50', 'dtype': 'bfloat16'}
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = 0.4
    config.optimizer.weight_decay = 1e-4
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = False
    config.schedule.warmup = '5 epochs'
  else:
    config.duration = '300 epochs'
    config.batch_size = 2048
    config.model = {
      'name': 'vit_small',
      'dtype': 'float32',
      'head_dropout': 0.1,
    }
    config.optimizer.name = 'adamw'
    config.optimizer.learning_rate = 3e-3
    config.optimizer.weight_decay = 0.3
    config.optimizer.clip_value = 1.0
    config.optimizer.sam_rho = 0.2
    config.optimizer.sam_synced = args.synced
    config.schedule.warmup = '15 epochs'
  config.schedule.warmup_start = 1e-4 * config.optimizer.learning_rate
  config.log_every = '100 steps'
  return common.debug(config, mock=args.mock) if args.debug else config
