r"""Images as in "When Does Label Smoothing Help?": three nets, three data sets.

Müller, Kornblith and Hinton, NeurIPS 2019 (arXiv 1906.02629, version 3):
Tables 2 and 3, Figures 1, 2, 5 and 6, Appendix A.

  python -m experiments.train --config=configs/muller.py:loss=ls
  python -m experiments.train --config=configs/muller.py:loss=ce
  python -m experiments.train \
    --config=configs/muller.py:data=cifar100,model=resnet56_t2t,smoothing=0.05
  python -m experiments.train --config=configs/muller.py:debug=true

and then `experiments.extract` and `experiments.diagnose` on the work directory,
for the penultimate layer, calibration and mutual information.

  data=cifar10         cifar100, or imagenet2012, with Inception-v4 alone
  model=alexnet_cifar  or resnet56_t2t
  decay=local          of alexnet_cifar: the two dense layers before the
                       classifier; last: the last of these and the classifier
  smoothing=0.1        the alpha of ls, maxsup and the rows of its ablation; the
                       paper has 0, .05, .1 and, in Figure 5, 0 to .75 by .15
  loss=ls              ce, maxsup or any other key of configs.common.OBJECTIVES
  alpha=constant       linear and linear_last are not this paper's
  seed=0, debug=false, mock=true: see configs/common.py

The paper, of CIFAR on 10,000 of the training images that it holds out, accuracy
in %, without and with alpha=0.1; of what the spread is, it does not say:

  cifar10,  alexnet_cifar  86.8+-0.2  86.7+-0.3
  cifar100, resnet56_t2t   72.1+-0.3  72.7+-0.3
  imagenet2012, inception_v4     80.9       80.9

ECE of cifar100: .150 at alpha=0 (.021 with temperature 1.9), .024 at .05; of
imagenet2012: .071 (.022 with temperature 1.4), .035 at .1. The
accuracies of Figure 5 (resnet56_t2t on cifar10 as the teacher, alexnet_cifar as
the student) are in no text; distillation itself is not in this card.

alexnet_cifar: 390,000 steps, plain SGD without momentum, rate 0.1, x0.1 every
130,000, decay 0.04. resnet56_t2t: 64,000 steps, Nesterov momentum 0.9, rate
0.1, x0.1 at 32,000 and 48,000, decay 1e-4, gradient clipped to norm 1. Both:
batch 128, 40,000 training images, cross-entropy times 3. Figure 5 has 5 seeds.
inception_v4: slim's with a scale in BatchNorm; batch 4,096, Nesterov momentum
0.9, decay 8e-5, weights averaged with 0.9999; another run, which holds 50,000
training images out, says where to stop.

Not stated, and what we take:
  * Which 10,000 images are held out: the last.
  * "The last two dense layers", which decay: in the TensorFlow tutorial that
    the network is from, these are local3 and local4, not the classifier.
    decay=last is the literal reading.
  * The tutorial's distortions of 24x24 crops (brightness, contrast,
    standardised images) and its central crop in evaluation are taken over.
  * ResNet-56 is tensor2tensor's: stages of 32, 64 and 128 channels (the paper
    gives no width), norms decay but biases do not, the decay joins the gradient
    before it is clipped, crop after padding by 4, mirror, standardised images.
  * Of inception_v4: rate 1.6 after 5 epochs of warm-up, x0.975 every epoch, 200
    epochs, random resized crops of 299, mirrored, slim's dropout of 0.2, no
    auxiliary head, the central 299 of 342 pixels. No checkpoint is chosen.

Hardware and time, theirs and here: unknown; not run here.
"""

from configs import common
from maxsup_jax.errors import UsageError
from maxsup_jax.tasks.config import default_config

SMOOTHING = 0.1


def get_config(arg=None):
  args = common.parse_arg(
    arg,
    data=('cifar10', 'cifar100', 'imagenet2012'),
    model=('alexnet_cifar', 'resnet56_t2t'),
    decay=('local', 'last'),
    smoothing=SMOOTHING,
    loss='ls',
    alpha=('constant', 'linear', 'linear_last'),
    seed=0,
    debug=False,
    mock=True,
  )
  config = default_config()
  config.seed = args.seed
  config.dataset.name = args.data
  config.objective = common.objective(
    args.loss, args.alpha, smoothing=args.smoothing, usual=SMOOTHING
  )
  config.optimizer.name = 'sgd'
  config.log_every = '100 steps'
  (imagenet if args.data == 'imagenet2012' else cifar)(config, args)
  return common.debug(config, mock=args.mock) if args.debug else config


def imagenet(config, args):
  if (args.model, args.decay) != ('alexnet_cifar', 'local'):
    raise UsageError(
      'data=imagenet2012 has one model and one decay; expected neither model= '
      'nor decay='
    )
  config.model = {'name': 'inception_v4', 'dtype': 'bfloat16'}
  config.duration = '200 epochs'
  config.batch_size = 4096
  config.eval_batch_size = 2048
  config.dataset.eval_split = 'validation'
  # slim's: pixels in [-1, 1].
  config.dataset.mean = config.dataset.std = (0.5, 0.5, 0.5)
  size, large = (75, 86) if args.debug else (299, 342)
  config.dataset.train_transform = f'random_resized_crop({size}) | flip'
  config.dataset.eval_transform = f'resize({large}) | center_crop({size})'
  config.optimizer.learning_rate = 1.6
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 8e-5
  config.ema_decay = 0.9999
  config.schedule.name = 'exponential'
  config.schedule.warmup = '5 epochs'
  config.schedule.factor = 0.975


def cifar(config, args):
  config.batch_size = 128
  config.eval_batch_size = 1000
  config.dataset.train_split = 'train[:40000]'
  config.dataset.eval_split = 'train[40000:]'
  config.dataset.in_memory = True
  config.model = {'name': args.model, 'dtype': 'float32'}
  config.loss_scale = 3.0
  config.optimizer.learning_rate = 0.1
  config.schedule.name = 'step'
  config.schedule.factor = 0.1
  if args.model == 'alexnet_cifar':
    config.duration = '390000 steps'
    # The transforms end with images that are normalised one by one.
    config.dataset.train_transform = (
      'random_crop(24) | flip | tf_distort | standardize'
    )
    config.dataset.eval_transform = 'center_crop(24) | standardize'
    config.optimizer.momentum = 0.0
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 0.04
    config.optimizer.decay = ('kernel',)
    config.optimizer.decay_layers = {
      'local': ('local3', 'local4'),
      'last': ('local4', 'head'),
    }[args.decay]
    config.schedule.milestones = ('130000 steps', '260000 steps')
  else:
    if args.decay != 'local':
      raise UsageError(
        f'decay={args.decay} is for model=alexnet_cifar; {args.model} decays '
        'all layers'
      )
    config.duration = '64000 steps'
    config.dataset.train_transform = 'pad_and_crop(4) | flip | standardize'
    config.dataset.eval_transform = 'standardize'
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay = ('kernel', 'normalization')
    config.optimizer.clip_norm = 1.0
    config.optimizer.clip_decayed = True
    config.schedule.milestones = ('32000 steps', '48000 steps')
  config.eval_every = '2000 steps'
  config.checkpoint_every = '2000 steps'
