"""The run cards, the values of their arguments, and datasets of their form."""

import ast
import importlib
import math
import pathlib

import numpy as np

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'

# These draw images of their own in debug mode: they have no argument mock.
UNMOCKED = {'glyphs'}

# The arguments of each card, besides loss, seed, debug and mock, with all of
# the values that they can have, or some; the default comes first.
CARDS = {
  'imagenet_convnet': {
    'model': ('resnet50', 'resnet18', 'resnet101', 'mobilenet_v2'),
    'recipe': ('a', 'b'),
    'alpha': ('paper', 'constant', 'linear', 'linear_last'),
  },
  'imagenet_deit': {
    'mix': ('false', 'true'),
    'repeats': ('1', '3'),
    'alpha': ('paper', 'constant', 'linear', 'linear_last'),
  },
  'imagenet_selective': {
    'model': ('resnet50', 'vit_small'),
    'smoothing': ('0.2', '0.4'),
    'synced': ('false', 'true'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'cifar_selective': {
    'data': ('cifar10', 'cifar100'),
    'held_out': ('false', 'true'),
    'smoothing': ('0.2', '0.4'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'cifar100_maxsup': {
    'model': ('resnet18', 'resnet50', 'resnet101', 'mobilenet_v2'),
    'augment': ('rotated', 'crop', 'none'),
    'nesterov': ('true', 'false'),
    'alpha': ('paper', 'constant', 'linear', 'linear_last'),
  },
  'cifar10_long_tailed': {
    'imbalance': ('100', '50', '10'),
    'head': ('causal_norm', 'linear'),
    'alpha': ('constant', 'linear', 'linear_last', 'paper'),
  },
  'cifar10_corruptions': {
    'augment': ('none', 'crop'),
    'alpha': ('paper', 'constant', 'linear', 'linear_last'),
  },
  'neural_collapse': {
    'data': ('cifar10', 'cifar100', 'stl10', 'tiny_imagenet,dataset=/tiny'),
    'smoothing': ('0.05', '0.9'),
    'schedule': ('release', 'v1'),
    'augment': ('none', 'pc'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'muller': {
    'data': ('cifar10', 'cifar100', 'imagenet2012'),
    'model': ('alexnet_cifar', 'resnet56_t2t'),
    'decay': ('local', 'last'),
    'smoothing': ('0.1', '0.75'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'fine_grained': {
    'data': ('cub', 'cars'),
    'init_from': ('', 'runs/resnet50'),
    'alpha': ('paper', 'constant', 'linear', 'linear_last'),
  },
  'digits': {
    'model': ('resnet8', 'vit_tiny'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'glyphs': {
    'classes': ('26', '62'),
    'train': ('10000', '50000'),
    'test': ('10000', '500'),
    'size': ('32', '64'),
    'difficulty': ('medium', 'easy', 'hard'),
    'model': ('resnet8', 'vit_tiny'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
}

# Those of segmentation, likewise.
SEGMENTATION = {
  'glyph_scenes': {
    'letters': ('5', '2'),
    'train': ('1000', '200'),
    'test': ('500', '100'),
    'size': ('64', '32'),
    'difficulty': ('easy', 'medium', 'hard'),
    'model': ('deeplabv3plus_resnet8', 'upernet_vit_tiny'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'camvid': {
    'path': ('camvid', '/data/camvid'),
    'model': ('upernet_vit_tiny', 'deeplabv3plus_resnet8'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'ade20k_upernet': {
    'path': ('ADEChallengeData2016', '/data/ade'),
    'pretrain': ('', 'runs/deit'),
    'neck': ('multilevel', 'none'),
    'steps': ('160000', '80000'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
  'cityscapes_deeplab': {
    'pretrain': ('', 'resnet101.pth'),
    'stride': ('32', '16', '8'),
    'smoothing': ('0.2', '0.1'),
    'alpha': ('constant', 'linear', 'linear_last'),
  },
}

# What the datasets hold: classes, the shape of an image, examples per split. A
# side of None varies.
DATASETS = {
  'imagenet2012': (
    1000,
    (None, None, 3),
    {'train': 1281167, 'validation': 50000},
  ),
  'cifar10': (10, (32, 32, 3), {'train': 50000, 'test': 10000}),
  'cifar100': (100, (32, 32, 3), {'train': 50000, 'test': 10000}),
  'stl10': (10, (96, 96, 3), {'train': 5000, 'test': 8000}),
  '/tiny': (200, (64, 64, 3), {'train': 100000, 'validation': 10000}),
  'caltech_birds2011': (200, (None, None, 3), {'train': 5994, 'test': 5794}),
  'cars196': (196, (None, None, 3), {'train': 8144, 'test': 8041}),
  'digits': (10, (8, 8, 1), {'train': 1442, 'test': 355}),
  'glyphs/26x10000x10000_32_medium': (
    26,
    (32, 32, 1),
    {'train': 10000, 'test': 10000},
  ),
}


def get_config(card: str, arg: str | None = None):
  return importlib.import_module(f'configs.{card}').get_config(arg)


def docstring(card: str) -> str:
  return ast.get_docstring(ast.parse((CONFIGS / f'{card}.py').read_text()))


class BlankSource:
  """A split of the right length whose images are all black."""

  def __init__(self, name: str, split: str):
    self.num_classes, self.image_shape, splits = DATASETS[name]
    base, _, part = split.partition('[')
    indices = range(splits[base])
    if part:
      start, _, stop = part.rstrip(']').partition(':')
      indices = indices[slice(*(int(x) if x else None for x in (start, stop)))]
    self.length = len(indices)
    self.name = f'{name}/{split}'
    self.label_names = None
    if None in self.image_shape:
      self.image_shape = None
    height, width, channels = (
      side or blank for side, blank in zip(DATASETS[name][1], (375, 500, 3))
    )
    self.image = np.zeros((height, width, channels), np.uint8)

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    index = range(self.length)[index]
    return {'image': self.image, 'label': index % self.num_classes}

  def labels(self):
    return np.arange(self.length) % self.num_classes


def cosine(peak, epoch, epochs, end=0.0):
  """Half a cosine over the epochs, at the beginning of one of them."""
  return end + (peak - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2
