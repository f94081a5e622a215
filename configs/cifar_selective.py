"""CIFAR for selective classification: ResNet-20 and DenseNet-BC-100.

Xia et al., Towards Understanding Why Label Smoothing Degrades Selective
Classification and How to Fix It, ICLR 2025 (arXiv 2403.14715), from the
authors' code: small models for its notebooks on CIFAR.

  python -m experiments.train --config=configs/cifar_selective.py:loss=ls
  python -m experiments.train --config=configs/cifar_selective.py:data=cifar100
  python -m experiments.train --config=configs/cifar_selective.py:held_out=true
  python -m experiments.train --config=configs/cifar_selective.py:debug=true

and then `experiments.extract` and `experiments.diagnose` on the work directory,
for risk, coverage and logit normalisation.

  data=cifar10    trains ResNet-20; or cifar100, DenseNet-BC-100 (k=12)
  held_out=false  true: trains on 45,000 images, and evaluates on the last 5,000
  smoothing=0.2   the alpha of ls, maxsup and the rows of its ablation
  loss=ls         ce, maxsup or any other key of configs.common.OBJECTIVES
  alpha=constant  linear and linear_last are for comparison, not this paper's
  seed=0, debug=false, mock=true: see configs/common.py

No result of these models is known to us: the notebooks have no stored outputs,
and the paper's tables were not available.

CIFAR-10: SGD with momentum 0.9, rate 0.1, x0.1 at epochs 25 and 50 of 75, decay
5e-4, batch 128. CIFAR-100: Nesterov, rate 0.1, x0.1 at epochs 150 and 225 of
300, decay 1e-4, batch 64. Both: crop after padding by 4, mirror; fp16 there,
float32 here. Nothing is exempt from decay in their files: we let it act on
every parameter, as PyTorch does.

  * Training there uses all 50,000 images, and its "validation" set is the test
    set, on which the checkpoint is chosen. The notebook on CIFAR-10 holds 5,000
    training images out to tune the norm p; held_out=true trains without them.
    Which 5,000 is not known; we take the last.
  * That notebook normalises CIFAR-10 by the mean and deviation of CIFAR-100. We
    do so for both, because a network must see in training what it sees there.
  * It tunes p on the model of cross-entropy and uses it for that of label
    smoothing. `experiments.diagnose` tunes each on its own.

Hardware there: one GPU of unknown kind (CIFAR-10); time: unknown. Here:
unknown, not run.
"""

from configs import common
from maxsup_jax.tasks.config import default_config

SMOOTHING = 0.2


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    data=('cifar10', 'cifar100'),
    held_out=False,
    smoothing=SMOOTHING,
    loss='ls',
    alpha=('constant', 'linear', 'linear_last'),
    seed=0,
    debug=False,
    mock=True,
  )
  config = default_config()
  config.seed = args.seed
  config.eval_batch_size = 1000
  config.dataset.name = args.data
  if args.held_out:
    config.dataset.train_split = 'train[:45000]'
    config.dataset.eval_split = 'train[45000:]'
  config.dataset.mean = (0.5071, 0.4867, 0.4408)
  config.dataset.std = (0.2675, 0.2565, 0.2761)
  config.dataset.train_transform = 'pad_and_crop(4) | flip'
  config.dataset.in_memory = True
  config.objective = common.objective(
    args.loss, args.alpha, smoothing=args.smoothing, usual=SMOOTHING
  )
  config.optimizer.name = 'sgd'
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9
  config.optimizer.decay = common.EVERYTHING
  config.schedule.name = 'step'
  config.schedule.factor = 0.1
  if args.data == 'cifar10':
    config.duration = '75 epochs'
    config.batch_size = 128
    config.model = {'name': 'resnet20', 'dtype': 'float32'}
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 5e-4
    config.schedule.milestones = ('25 epochs', '50 epochs')
  else:
    config.duration = '300 epochs'
    config.batch_size = 64
    config.model = {'name': 'densenet_bc_100', 'dtype': 'float32'}
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.schedule.milestones = ('150 epochs', '225 epochs')
  config.log_every = '100 steps'
  config.checkpoint_every = '5 epochs'
  return common.debug(config, mock=args.mock) if args.debug else config
