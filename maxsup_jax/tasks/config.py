"""The configuration of a run, by its task: fields, defaults, checks."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from maxsup_jax import errors
from maxsup_jax.errors import UsageError
from maxsup_jax.training import config as common
from maxsup_jax.training.workdir import Workdir

# Sections whose fields depend on their `name`: the model and the objective
# check them themselves.
FREE_SECTIONS = ('model', 'objective')
# Those of maxsup_jax.models, which takes two seconds to import.
MODELS = (
  *('resnet8', 'resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet20'),
  *('resnet32_bbn', 'resnet56_t2t', 'alexnet_cifar', 'densenet_bc_100'),
  *('resnet20_a', 'resnet32_a', 'resnet44_a', 'resnet56_a', 'resnet110_a'),
  *('mobilenet_v2', 'inception_v4', 'vit_tiny', 'vit_small', 'vit_base', 'mlp'),
)
READERS = ('lstm',)
TRANSFORMERS = ('transformer_tiny', 'transformer_small', 'transformer_base')
SEGMENTERS = (
  *('upernet_vit_tiny', 'upernet_vit_small', 'upernet_vit_base'),
  *('deeplabv3plus_resnet8', 'deeplabv3plus_resnet101'),
)
# What a run of something else than images keeps in its directory.
ENCODERS = {
  'columns.json': 'a table',
  'vocabulary.json': 'texts',
  'vocabulary.model': 'texts',
}
TASKS = ('classification', 'segmentation', 'translation')
DENOMINATORS = ('valid', 'all')
# Far beyond any use: what is larger is a slip that would fill the memory.
_MOST = {
  'num_classes': 2**24,
  'image_size': 2**14,
  'channels': 2**10,
  'repeats': 2**10,
  'mock': 2**20,
}


def default_config(task: str = 'classification') -> ConfigDict:
  """Every field with its default. Run cards start from this.

  Durations are written with their unit, such as '90 epochs', '1000 steps' or
  '50000 examples'. A field whose default is None takes the named type or None.

  Args:
    task: one of `TASKS`.

  Examples:
    >>> config = default_config()
    >>> config.optimizer.learning_rate
    0.1
  """
  if errors.one_of('config.task', task, TASKS) == 'translation':
    return _translation()
  if task == 'segmentation':
    return _segmentation()
  shared = common.common_fields()
  first = ('seed', 'duration', 'batch_size', 'eval_batch_size')
  return ConfigDict(
    {
      'task': task,
      **{name: shared.pop(name) for name in first},
      'dataset': {
        # A name of tfds or of maxsup_jax.data, or a prepared directory.
        'name': 'digits',
        'train_split': 'train',
        'eval_split': 'test',
        'image_key': 'image',
        'label_key': 'label',  # Of a table, the column of classes.
        # Only where the dataset does not say it: labels that are plain ints.
        'num_classes': placeholder(int),
        # Side of the square that images are resized to as they are read, before
        # any transform; None leaves them.
        'image_size': placeholder(int),
        # 3 repeats grey images three times; None leaves them.
        'channels': placeholder(int),
        # Per channel, or one number for all, of images in [0, 1].
        'mean': (0.0,),
        'std': (1.0,),
        # Operations on every image, such as 'pad_and_crop(4) | flip'; see
        # maxsup_jax.data.parse_transform. Both must end with one size.
        'train_transform': '',
        'eval_transform': '',
        # Repeated augmentation: how often an image comes in an epoch.
        'repeats': 1,
        # Long-tailed training: examples of the last class for each one of the
        # first, such as 0.01; None keeps all.
        'imbalance': placeholder(float),
        # The share of training labels that are wrong, such as 0.2, and how; see
        # maxsup_jax.data.NoisyLabels. None leaves them.
        'label_noise': placeholder(float),
        'label_noise_kind': 'symmetric',
        # So many random examples in the form of the dataset, to try things out.
        'mock': placeholder(int),
        # Of texts: how many tokens of each are read, its end among them; None
        # where examples are no texts. The number of ids that there may be is
        # config.model.vocabulary_size.
        'length': placeholder(int),
        # 'words' or 'bpe' (subwords, of sentencepiece).
        'vocabulary': 'words',
        # A file of GloVe or word2vec: the word vectors that training begins
        # with, and keeps, unless config.model.frozen is False.
        'vectors': placeholder(str),
        # Of a table in one file: the share of the rows of each class that is
        # for the split 'test', and the seed that draws them.
        'held_out': 0.2,
        'split_seed': 0,
        # Decode the whole dataset once and keep it in memory.
        'in_memory': False,
        # See maxsup_jax.data.train_batches; None chooses.
        'num_threads': placeholder(int),
        'workers': 0,
        # An image that cannot be read: 'stop', or 'skip' and take the next.
        'on_error': 'stop',
      },
      # The options of a model are those of maxsup_jax.models.create_model.
      'model': {'name': 'resnet8', 'dtype': 'float32'},
      # The work directory of a run whose newest weights to start from, or a
      # file of PyTorch weights: .safetensors, .pth and others.
      'init_from': placeholder(str),
      # Of a file: where it has the weights, such as 'teacher', and what the
      # names that count begin with, such as 'backbone.'. Of both: whether to
      # resample the positions of a ViT for another size of images.
      'init': {
        'key': placeholder(str),
        'prefix': placeholder(str),
        'resize_positions': False,
      },
      # The work directory of a run whose newest weights, 'raw' or 'ema', teach
      # this one: of the objectives distillation and logit_matching. Or its
      # outputs on the training split, an .npz of experiments.extract, of which
      # memory holds the teacher_top_k largest logits; None holds all.
      'teacher': placeholder(str),
      'teacher_weights': 'raw',
      'teacher_top_k': placeholder(int),
      # Statistics over the global batch, 'cross_device', or 'per_device'.
      'batch_norm': 'cross_device',
      # Mixup and cutmix, on the device; see maxsup_jax.tasks.mixing.
      'mixing': {
        # Both parameters of their Beta distributions; 0 for neither.
        'mixup': 0.0,
        'cutmix': 0.0,
        'probability': 1.0,
        # Where both are on: how often it is cutmix.
        'switch': 0.5,
        # One draw for a 'batch', or for each 'pair' of images.
        'mode': 'batch',
      },
      **shared,
    }
  )


def _segmentation() -> ConfigDict:
  config = default_config()
  config.task = 'segmentation'
  # These are for one label an image.
  for name in ('teacher', 'teacher_weights', 'teacher_top_k', 'mixing'):
    del config[name]
  dataset = config.dataset
  for name in (
    *('image_size', 'imbalance', 'label_noise', 'label_noise_kind'),
    *('length', 'vocabulary', 'vectors', 'held_out', 'split_seed'),
  ):
    del dataset[name]
  dataset.update(
    {
      # See maxsup_jax.data.open_segmentation, and for what these fields mean.
      'name': 'glyph_scenes',
      'image_key': placeholder(str),
      'label_key': placeholder(str),
      'classes': placeholder(str),
      'ignore': (),
      'reduce_zero_label': False,
      # Both transforms move labels as they move pixels, and both end with one
      # size.
      'mean': (0.5,),
      'std': (0.25,),
    }
  )
  config.update(
    {
      # What the mean is over: 'valid' pixels, which have a label, or 'all',
      # as in mmsegmentation.
      'denominator': 'valid',
      # Of the objective of the auxiliary head, where the model has one.
      'auxiliary_weight': 0.4,
      # Only every so many-th pixel has a loss, see losses.pixel_loss.
      'loss_stride': 1,
    }
  )
  config.model = {'name': 'upernet_vit_tiny', 'dtype': 'float32'}
  config.batch_size = config.eval_batch_size = 16
  config.optimizer.update(
    {'name': 'adamw', 'learning_rate': 2e-3, 'weight_decay': 0.01}
  )
  config.schedule.update({'name': 'linear', 'warmup': '50 steps'})
  return config


def _translation() -> ConfigDict:
  config = ConfigDict(
    {
      'task': 'translation',
      **common.common_fields(),
      'dataset': {
        # See maxsup_jax.data.text.open_pairs: 'phrases', 'lines:A.en,A.de' or a
        # name of tfds.
        'name': 'phrases',
        'train_split': 'train',
        'eval_split': 'test',
        # Of tfds only: which features are translated from and to.
        'source_language': 'en',
        'target_language': 'de',
        # 'words' or 'bpe' (subwords, of sentencepiece), and how many at most.
        'vocabulary': 'words',
        'vocabulary_size': 1000,
        # Widths of batches in tokens: each is a program of its own. Pairs with
        # a longer side are not trained on.
        'buckets': (12, 24),
      },
      # The options of a model are those of maxsup_jax.models.create_model.
      'model': {'name': 'transformer_tiny', 'dtype': 'float32'},
    }
  )
  # In target positions, padding among them, over all devices.
  config.batch_size, config.eval_batch_size = 512, 2048
  config.optimizer.update(
    {
      'name': 'adamw',
      'learning_rate': 4e-3,
      'weight_decay': 0.0,
      'b2': 0.98,
      'eps': 1e-9,
    }
  )
  config.schedule.update({'name': 'inverse_sqrt', 'warmup': '150 steps'})
  return config


def resolve(config: Mapping[str, Any]) -> ConfigDict:
  """Fills in defaults and refuses unknown fields and wrong types.

  Args:
    config: nested fields, as a run card or a work directory's `config.json`
      gives them; those left out take their defaults.

  Returns:
    A complete, locked configuration.

  Raises:
    UsageError: for an unknown field, a value of the wrong type, or one out of a
      range that `build` does not check.

  Examples:
    >>> config = resolve({'optimizer': {'learning_rate': 0.5}})
    >>> config.optimizer.learning_rate, config.optimizer.momentum
    (0.5, 0.9)
  """
  task = 'classification'
  if isinstance(config, Mapping | ConfigDict):
    task = config.get('task', task)
  resolved = common.resolve(
    config, default_config(task), free_sections=FREE_SECTIONS
  )
  dataset = resolved.dataset
  if resolved.task == 'translation':
    return resolved.lock()
  for name, most in _MOST.items():
    if dataset.get(name) is not None:
      errors.integer(f'config.dataset.{name}', dataset[name], 1, most)
  # Of images in [0, 1]; with a deviation of 1e-20 all would be noise.
  for name, low, high in (('mean', 0, 1), ('std', 1e-3, 10)):
    if not dataset[name]:
      raise UsageError(
        f'config.dataset.{name} is {dataset[name]}; expected a number per '
        'channel, or one for all'
      )
    for value in dataset[name]:
      errors.number(f'config.dataset.{name}', value, low, high)
  errors.one_of(
    'config.batch_norm', resolved.batch_norm, ('cross_device', 'per_device')
  )
  given = [
    n for n, value in resolved.init.items() if value not in (None, False)
  ]
  if given and resolved.init_from is None:
    name = f'config.init.{given[0]}'
    raise UsageError(
      f'{name} is {resolved.init[given[0]]!r}, which needs config.init_from'
    )
  if resolved.task == 'segmentation':
    errors.one_of('config.denominator', resolved.denominator, DENOMINATORS)
    errors.number('config.auxiliary_weight', resolved.auxiliary_weight, 0)
    errors.integer('config.loss_stride', resolved.loss_stride, 1, 2**10)
    return resolved.lock()
  if dataset.imbalance is not None:
    errors.number(
      'config.dataset.imbalance', dataset.imbalance, above=0, high=1
    )
  if dataset.label_noise is not None:
    errors.number(
      'config.dataset.label_noise', dataset.label_noise, above=0, below=1
    )
  return resolved.lock()


def check_names(config: ConfigDict) -> None:
  """Refuses an unknown model, and transforms that cannot be parsed.

  `build` does, too, but only after what takes seconds is imported, and it takes
  a model of your own under any name.

  Args:
    config: complete.

  Raises:
    UsageError: for the first of them.
  """
  if config.task == 'translation':
    errors.one_of('config.model.name', config.model.name, TRANSFORMERS)
    return
  from maxsup_jax.tasks import inputs

  known = SEGMENTERS if config.task == 'segmentation' else (*MODELS, *READERS)
  # With a colon one of the user's own.
  if ':' not in config.model.name or known is SEGMENTERS:
    errors.one_of('config.model.name', config.model.name, known)
  inputs.parse_transforms(config)


def check_task(config: ConfigDict, task: str = 'classification') -> None:
  """Refuses a run of another task than the one that something is for.

  Raises:
    UsageError: one line.
  """
  if config.task != task:
    raise UsageError(
      f'config.task is {config.task!r}; expected {task!r}: only it has what '
      'is asked for'
    )


def check_images(directory: Workdir) -> None:
  """Refuses a run of a table or of texts, for what is done to images.

  Raises:
    UsageError: one line.
  """
  for name in ENCODERS:
    if (directory.path / name).exists():
      raise UsageError(
        f'{directory.path} is a run of {ENCODERS[name]}; expected one of images'
      )


def open_workdir(path: str | os.PathLike, *, writes: bool = False) -> Workdir:
  """The work directory of a run; fields that its configuration lacks are added.

  Args:
    path: of the directory.
    writes: whether this process writes there.
  """
  return Workdir(path, writes=writes, resolve=resolve)


def default_workdir(config: ConfigDict) -> str:
  """The default directory of a run: `runs/` and a name.

  The same configuration has the same directory; another one another.

  Args:
    config: complete.
  """
  # Not of fields at their defaults: a version that has more finds it, too.
  defaults = common.fields(default_config(config.task))
  identity = {
    name: value
    for name, value in common.fields(config).items()
    if name not in common.SPEED_FIELDS
    and (name not in defaults or defaults[name] != value)
  }
  text = common.to_json(dict(sorted(identity.items())))
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  # Of a directory, the dataset's name and its version.
  dataset = '-'.join(config.dataset.name.rstrip('/').split('/')[-2:])
  if config.dataset.name.startswith('lines:'):
    dataset = 'lines'
  name = '-'.join(
    [
      dataset.replace(':', '_'),
      *(['made_up'] if config.dataset.get('mock') is not None else []),
      config.model.name.replace(':', '.'),
      config.objective.name,
      f'seed{config.seed}',
      digest,
    ]
  )
  return os.path.join('runs', name)
