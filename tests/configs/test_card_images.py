"""What every card reads and what it does to the images: typed from the papers.

The numbers are those of the papers and of their authors' code, written down
apart from the cards.
"""

import pytest

from maxsup_jax.data.preprocessing import parse_transform
from maxsup_jax.tasks import resolve
from tests.configs.cards import CARDS, BlankSource, get_config

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Of the code for the neural collapse.
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
STL10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2434, 0.2615))
CIFAR100_OF_2023 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761))
# Of the notebook on CIFAR-10, which has those of CIFAR-100.
SELECTIVE = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
# Of weiaicunzai/pytorch-cifar100, which has more digits.
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
LONG_TAILED = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CORRUPTIONS = ((0.491, 0.482, 0.446), (0.247, 0.243, 0.261))
NONE = ((0.0,), (1.0,))

PADDED = 'pad_and_crop(4) | flip'
VALIDATION = ('imagenet2012', 'train', 'validation')
TUTORIAL = (
  'random_crop(24) | flip | tf_distort(63, (0.2, 1.8)) | standardize',
  'center_crop(24) | standardize',
)
TENSOR2TENSOR = ('pad_and_crop(4) | flip | standardize', 'standardize')
DEIT = (
  "random_resized_crop(224, (0.08, 1.0), (3 / 4, 4 / 3), 'bicubic') | "
  "flip(0.5) | rand_augment('m9-mstd0.5-inc1') | random_erasing(0.25)",
  "resize(256, 'bicubic') | center_crop(224)",
)

# Card and arguments; dataset, training and evaluation split; mean and standard
# deviation; what is done to images of training and of evaluation.
IMAGES = [
  *(
    (
      ('imagenet_convnet', f'model={model}'),
      VALIDATION,
      IMAGENET,
      (
        "random_resized_crop(224, interpolation='area') | flip",
        "resize(293, 'area') | center_crop(256)",
      ),
    )
    for model in ('resnet18', 'resnet50', 'resnet101', 'mobilenet_v2')
  ),
  *(
    (
      ('imagenet_convnet', f'recipe=b{rest}'),
      VALIDATION,
      IMAGENET,
      (
        "random_resized_crop(224, interpolation='bilinear') | flip",
        "resize(256, 'bilinear') | center_crop(224)",
      ),
    )
    for rest in ('', ',rate=text', ',model=mobilenet_v2')
  ),
  (('imagenet_deit', ''), VALIDATION, IMAGENET, DEIT),
  (('imagenet_deit', 'mix=true,repeats=3'), VALIDATION, IMAGENET, DEIT),
  *(
    (
      ('imagenet_selective', f'model={model}'),
      VALIDATION,
      IMAGENET,
      (
        "random_resized_crop(224, interpolation='bicubic') | flip",
        "resize(256, 'bicubic') | center_crop(224)",
      ),
    )
    for model in ('resnet50', 'vit_small')
  ),
  *(
    (
      ('cifar_selective', f'data={data}{rest}'),
      (data, *splits),
      SELECTIVE,
      (PADDED, ''),
    )
    for data in ('cifar10', 'cifar100')
    for rest, splits in (
      ('', ('train', 'test')),
      (',held_out=true', ('train[:45000]', 'train[45000:]')),
    )
  ),
  *(
    (
      ('cifar100_maxsup', f'augment={augment}'),
      ('cifar100', 'train', 'test'),
      CIFAR100,
      (transform, ''),
    )
    for augment, transform in (
      ('rotated', f'{PADDED} | rotate(15)'),
      ('crop', PADDED),
      ('none', ''),
    )
  ),
  *(
    (
      ('cifar10_long_tailed', f'imbalance={imbalance}'),
      ('cifar10', 'train', 'test'),
      LONG_TAILED,
      (PADDED, ''),
    )
    for imbalance in (10, 50, 100)
  ),
  *(
    (
      ('cifar10_corruptions', f'augment={augment}'),
      ('cifar10', 'train', 'test'),
      CORRUPTIONS,
      (transform, ''),
    )
    for augment, transform in (('none', ''), ('crop', PADDED))
  ),
  *(
    (
      ('neural_collapse', f'{arg},augment={augment}'),
      dataset,
      statistics,
      (transform, ''),
    )
    for arg, dataset, statistics in (
      ('data=cifar10', ('cifar10', 'train', 'test'), CIFAR10),
      ('data=cifar10,schedule=v1', ('cifar10', 'train', 'test'), CIFAR10),
      ('data=cifar100', ('cifar100', 'train', 'test'), CIFAR10),
      (
        'data=cifar100,schedule=v1',
        ('cifar100', 'train', 'test'),
        CIFAR100_OF_2023,
      ),
      ('data=stl10', ('stl10', 'train', 'test'), STL10),
      (
        'data=tiny_imagenet,dataset=/tiny',
        ('/tiny', 'train', 'validation'),
        IMAGENET,
      ),
    )
    for augment, transform in (('none', ''), ('pc', PADDED))
  ),
  (
    ('muller', 'data=imagenet2012'),
    ('imagenet2012', 'train', 'validation'),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    (
      'random_resized_crop(299) | flip',
      'resize(342) | center_crop(299)',
    ),
  ),
  *(
    (
      ('muller', f'data={data},model={model}'),
      (data, 'train[:40000]', 'train[40000:]'),
      NONE,
      transforms,
    )
    for data in ('cifar10', 'cifar100')
    for model, transforms in (
      ('alexnet_cifar', TUTORIAL),
      ('resnet56_t2t', TENSOR2TENSOR),
    )
  ),
  *(
    (
      ('fine_grained', f'data={data}'),
      (name, 'train', 'test'),
      IMAGENET,
      (
        'resize_exact(512) | random_crop(448, padding=8) | flip',
        'resize_exact(512) | center_crop(448)',
      ),
    )
    for data, name in (('cub', 'caltech_birds2011'), ('cars', 'cars196'))
  ),
  (
    ('digits', ''),
    ('digits', 'train', 'test'),
    ((0.3,), (0.38,)),
    ('pad_and_crop(1)', ''),
  ),
  (
    ('glyphs', ''),
    ('glyphs/26x10000x10000_32_medium', 'train', 'test'),
    ((0.5,), (0.25,)),
    ('pad_and_crop(2)', ''),
  ),
]


@pytest.mark.parametrize(
  ('card', 'dataset', 'statistics', 'transforms'),
  IMAGES,
  ids=[':'.join(filter(None, row[0])) for row in IMAGES],
)
def test_images_are_those_of_the_papers(card, dataset, statistics, transforms):
  config = resolve(get_config(*card)).dataset
  assert (config.name, config.train_split, config.eval_split) == dataset
  assert (config.mean, config.std) == statistics
  for ours, theirs in zip(
    (config.train_transform, config.eval_transform), transforms, strict=True
  ):
    ours, theirs = map(parse_transform, (ours, theirs))
    assert ours.operations == theirs.operations


def test_all_cards_are_in_the_table():
  assert {row[0][0] for row in IMAGES} == set(CARDS)


def test_every_model_is_evaluated_on_the_pixels_of_its_paper():
  sizes = {
    ('imagenet_convnet', ''): 256,
    ('imagenet_convnet', 'recipe=b'): 224,
    ('imagenet_deit', ''): 224,
    ('imagenet_selective', ''): 224,
    ('muller', ''): 24,
    ('muller', 'model=resnet56_t2t'): 32,
    ('muller', 'data=imagenet2012'): 299,
    ('fine_grained', ''): 448,
    ('neural_collapse', 'data=stl10'): 96,
  }
  for (card, arg), size in sizes.items():
    config = resolve(get_config(card, arg))
    dataset = config.dataset
    image = BlankSource(dataset.name, dataset.eval_split)[0]['image']
    transform = parse_transform(
      dataset.eval_transform, mean=dataset.mean, std=dataset.std
    )
    assert transform(image, None).shape[:2] == (size, size), card
