"""Operations on images with their label maps."""

import colorsys

import numpy as np
import pytest
import torch
from scipy import ndimage

from maxsup_jax import data
from maxsup_jax.data import color, parse_transform, resizing, transforms

MEAN = (0.485, 0.456, 0.406)


def example(height=70, width=90, classes=5, seed=0):
  """Blocks of classes, and an image that is 40 times the class."""
  rng = np.random.default_rng(seed)
  blocks = rng.integers(0, classes, (-(-height // 10), -(-width // 10)), 'u1')
  labels = np.kron(blocks, np.ones((10, 10), np.uint8))[:height, :width]
  return np.repeat(40 * labels[..., None], 3, -1), labels


def parsed(text):
  return parse_transform(text, mean=MEAN, labels=True)


@pytest.mark.parametrize(
  'text',
  [
    'flip | random_crop(48)',
    'random_crop(64, padding=9) | flip',
    'center_crop(80)',
    'random_resize((120, 60)) | random_crop(64, cat_max_ratio=0.75) | flip',
    'random_resize(ratio=(0.5, 1), antialias=True) | pad(96, fill=0)',
    'resize(50) | resize_exact(64, 41)',
    'resize_within(200, 90) | random_crop(64) | photometric_distortion(0, '
    '(1, 1), (1, 1), 0) | color_jitter | pad(64)',
  ],
)
def test_image_and_labels_stay_together(text):
  """The image says what the label is, but for two pixels at the edges."""
  transform, (image, labels) = parsed(text), example()
  for seed in range(6):
    rng = np.random.default_rng(seed)
    out, out_labels = transform.with_labels(image, labels, rng)
    assert out.shape[:2] == out_labels.shape
    assert out_labels.dtype == out.dtype == np.uint8
    assert {*np.unique(out_labels)} <= {*range(5), 255}
    around = {'size': 5, 'mode': 'constant', 'cval': 7}
    inside = ndimage.minimum_filter(
      out_labels, **around
    ) == ndimage.maximum_filter(out_labels, **around)
    inside &= out_labels != 255
    assert inside.sum() > 200
    drawn = np.rint(out[..., 1] / 40)
    np.testing.assert_array_equal(drawn[inside], out_labels[inside])


def test_sizes_and_filters_are_those_of_the_definition():
  image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
  for long, short, size in ((40, 25, (25, 34)), (100, 99, (74, 100))):
    out = resizing.resize_within(image, long, short)
    assert out.shape[:2] == size
    tensor = torch.tensor(image, dtype=torch.float64).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(
      tensor, size, mode='bilinear', align_corners=False
    )[0].permute(1, 2, 0)
    # OpenCV's weights are multiples of 2**-11.
    assert np.abs(out - expected.numpy()).max() < 1.1
  r = np.random.default_rng(3).uniform(0.5, 2)
  scaled = resizing.RandomResize((200, 60))(image, np.random.default_rng(3))
  factor = min(int(200 * r) / 50, int(60 * r) / 37)
  assert scaled.shape[:2] == (int(37 * factor + 0.5), int(50 * factor + 0.5))


@pytest.mark.parametrize(('old', 'new'), [(10, 5), (13, 29), (200, 83)])
def test_labels_are_taken_from_the_floor(old, new):
  labels = np.random.default_rng(0).integers(0, 256, (old, 3), np.uint8)
  rows = np.floor(np.arange(new) * (1 / (new / old))).astype(int)
  found = resizing.resize_labels(labels, new, 3)
  np.testing.assert_array_equal(found, labels[rows])


def test_no_class_fills_a_crop_where_another_one_is_near():
  labels = np.zeros((64, 256), np.uint8)
  labels[:, 200:] = 1
  labels[:5] = 255
  image = np.repeat(labels[..., None], 3, -1)
  crop = transforms.RandomCrop(64, cat_max_ratio=0.75)
  plain = transforms.RandomCrop(64)
  shares = {crop: [], plain: []}
  for operation, found in shares.items():
    for seed in range(200):
      rng = np.random.default_rng(seed)
      _, part = operation.with_labels(image, labels, rng)
      counts = np.bincount(part[part != 255])
      found.append(counts.max() / counts.sum())
  # A crop is mixed enough in 33 of its 193 places.
  enough = {k: np.mean(np.array(v) < 0.75) for k, v in shares.items()}
  assert abs(enough[plain] - 33 / 193) < 0.08
  assert abs(enough[crop] - (1 - (160 / 193) ** 11)) < 0.08
  alone = np.zeros_like(labels)
  _, part = crop.with_labels(image, alone, np.random.default_rng(0))
  assert part.shape == (64, 64)


def test_small_images_are_padded_with_the_mean_and_255():
  image, labels = example(20, 90)
  rng = np.random.default_rng(0)
  out, out_labels = parsed('random_crop(64) | pad(64)').with_labels(
    image, labels, rng
  )
  assert out.shape == (64, 64, 3)
  np.testing.assert_array_equal(out[20:], np.full((44, 64, 3), (124, 116, 104)))
  assert (out_labels[20:] == 255).all()
  assert (out_labels[:20] < 5).all()
  assert (parsed('pad(64, fill=0)')(image)[20:] == 0).all()
  assert parsed('pad(20)')(image) is image
  assert parsed('pad(10, 91)')(image).shape == (20, 91, 3)


class Drawn:
  """A generator that says yes and no, and always draws an end of the range."""

  def __init__(self, *coins):
    self.coins = list(coins)

  def random(self):
    return 0.0 if self.coins.pop(0) else 0.9

  def uniform(self, low, high):
    return high

  def integers(self, low, high):
    return high - 1


def test_photometric_distortion_is_that_of_the_definition():
  image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  distort = color.PhotometricDistortion(20.5, (0.5, 1.3), (0.5, 0.7), 18)
  # Brightness, contrast, contrast last, saturation, hue.
  bright = distort(image, Drawn(1, 0, 0, 0, 0))
  np.testing.assert_array_equal(bright, (image + 20.5).clip(0, 255) // 1)
  first = distort(image, Drawn(1, 1, 0, 0, 0))
  expected = (bright * 1.3 // 1).clip(0, 255)
  assert np.abs(first - expected).max() <= 1
  assert distort(image, Drawn(0, 0, 0, 0, 0)) is image
  # Of one operation the place does not matter, of two it does.
  again = distort(image, Drawn(0, 1, 1, 0, 0))
  np.testing.assert_array_equal(again, distort(image, Drawn(0, 1, 0, 0, 0)))
  rounded = distort(image, Drawn(0, 1, 1, 1, 0))
  assert (rounded != distort(image, Drawn(0, 1, 0, 1, 0))).any()

  def in_hsv(change):
    pixels = [
      colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p / 255)))
      for p in image.reshape(-1, 3)
    ]
    return 255 * np.reshape(pixels, image.shape)

  paler = distort(image, Drawn(0, 0, 0, 1, 0))
  expected = in_hsv(lambda h, s, v: (h, 0.7 * s, v))
  assert np.abs(paler - expected).max() < 5
  turned = distort(image, Drawn(0, 0, 0, 0, 1))
  expected = in_hsv(lambda h, s, v: ((h + 17 / 180) % 1, s, v))
  assert np.abs(turned - expected).max() < 6


TEXT = (
  'random_resize((64, 32)) | random_crop(32, cat_max_ratio=0.75) | flip | '
  'photometric_distortion | pad(32)'
)


def pairs(count=6):
  images, labels = zip(*(example(40, 48, seed=i) for i in range(count)))
  return data.ArraySource(np.stack(images), np.stack(labels), num_classes=5)


@pytest.mark.parametrize(
  'options',
  [
    {'num_threads': 3},
    {'num_threads': 0, 'start_step': 2},
    pytest.param({'workers': 2, 'start_step': 1}, marks=pytest.mark.slow),
  ],
)
def test_batches_are_functions_of_seed_and_step(options):
  source, transform = pairs(), parsed(TEXT)

  def batches(steps, **options):
    iterator = data.train_batches(
      source, batch_size=4, seed=3, transform=transform, **options
    )
    try:
      return [next(iterator) for _ in range(steps)]
    finally:
      iterator.close()

  plain = batches(4, num_threads=0)
  assert plain[0]['label'].shape == (4, 32, 32)
  assert plain[0]['label'].dtype == np.uint8
  assert (plain[0]['label'] != plain[1]['label']).any()
  start = options.get('start_step', 0)
  for a, b in zip(plain[start:], batches(4 - start, **options), strict=True):
    for key in ('image', 'label', 'mask'):
      np.testing.assert_array_equal(a[key], b[key])


def test_rows_that_fill_up_do_not_count(refused):
  (_, last) = data.eval_batches(
    pairs(), batch_size=4, transform=parsed('resize_exact(24)')
  )
  assert last['mask'].tolist() == [True, True, False, False]
  assert (last['label'][:2] < 5).all()
  assert (last['label'][2:] == 255).all()
  with refused('is a function of images; expected one with a method with_lab'):
    next(data.eval_batches(pairs(), batch_size=2, transform=lambda i, _: i))


def test_what_cannot_be_done_to_labels_is_refused(refused):
  with refused('rand_augment cannot be applied to label maps; .* among center'):
    parsed("flip | rand_augment('m9-mstd0.5-inc1')")
  with refused('rotate cannot be applied to label maps'):
    parse_transform('rotate(3)').with_labels(*example())
  with refused('random_crop: cat_max_ratio needs a label map'):
    transforms.RandomCrop(8, cat_max_ratio=0.5)(example()[0])
  for text, message in (
    ('random_crop(8, cat_max_ratio=0)', 'cat_max_ratio is 0; expected above 0'),
    ('random_resize(512)', r'scale is 512; expected \(long, short\)'),
    ('random_resize((9, 9), (0, 1))', r'ratio is \(0, 1\); expected two num'),
    ("pad(8, fill='black')", "fill is 'black'; expected 'mean', or a grey"),
    ('photometric_distortion(hue=91)', 'hue is 91; expected an integer, from'),
    ("resize_within(8, 8, 'no')", "antialias is 'no'; expected True or False"),
  ):
    with refused(message):
      parsed(text)
