"""A study on CIFAR-10, small for two CPU cores, or at full size for a GPU.

  python -m experiments.study --config=configs/study_cifar10.py \
    --workdir=runs/study_cifar10 --jobs=2

Arguments, after a colon and separated by commas:

  seeds=3      so many, from 0
  size=small   10,000 training images, ResNet-8 of width 16, 8 epochs; full: all
               50,000, ResNet-18, the 200 epochs of configs/cifar100_maxsup.py
  debug=false  true: two seeds, a few steps each on random images

Cross-entropy, label smoothing, MaxSup and the logit penalty. Transfer is to
generated letters in colour. The small recipe is ours, of no paper; what came of
it is in docs/evidence.md. The full size was not run.
"""

from configs import cifar100_maxsup, common
from maxsup_jax.studies import claims
from maxsup_jax.studies.study import Study, Transfer
from maxsup_jax.tasks.config import default_config

LOSSES = ('ce', 'ls', 'maxsup', 'logit_penalty')


def get_study(arg=None):
  args = common.parse_arg(arg, seeds=3, size=('small', 'full'), debug=False)

  def run(loss):
    config = small(loss) if args.size == 'small' else full(loss)
    config.keep_checkpoints = 100
    return common.debug(config) if args.debug else config

  variants = {loss: run(loss) for loss in LOSSES}
  letters = '62x200x100_32_easy' if args.debug else '62x2000x2000_32_easy'
  sizes = {
    'small': 'The first 10,000 training images and all 10,000 test images; '
    'ResNet-8 of width 16, 8 epochs of SGD: far from what CIFAR-10 allows.',
    'full': 'All images; ResNet-18, 200 epochs.',
  }
  return Study(
    name='cifar10',
    title='Objectives on CIFAR-10',
    about=sizes[args.size],
    variants=variants,
    seeds=tuple(range(2 if args.debug else args.seeds)),
    claims=claims.among(variants),
    transfer=Transfer(
      f'glyphs/{letters}',
      channels=3,
      strengths=tuple(10.0**e for e in range(-1, 5)),
    ),
  )


def full(loss):
  config = cifar100_maxsup.get_config(f'loss={loss},model=resnet18')
  config.dataset.name = 'cifar10'
  config.checkpoint_every = config.diagnostics_every = '20 epochs'
  return config


def small(loss):
  config = default_config()
  config.duration = '8 epochs'
  config.batch_size = 128
  config.eval_batch_size = 500
  config.dataset.name = 'cifar10'
  config.dataset.train_split = 'train[:10000]'
  config.dataset.mean = (0.4914, 0.4822, 0.4465)
  config.dataset.std = (0.247, 0.243, 0.261)
  config.dataset.train_transform = 'pad_and_crop(4) | flip'
  config.dataset.in_memory = True
  config.model = {'name': 'resnet8', 'dtype': 'float32', 'stem': 'cifar'}
  config.model.width = 16
  config.objective = common.objective(loss)
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.1
  config.optimizer.weight_decay = 5e-4
  config.schedule.name = 'cosine'
  config.schedule.warmup = '1 epochs'
  config.log_every = '1 epoch'
  config.eval_every = config.checkpoint_every = '2 epochs'
  config.diagnostics_every = '2 epochs'
  return config
