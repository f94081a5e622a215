"""RandAugment, in the variant of timm that DeiT and its successors use."""

import dataclasses
import functools
import re
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from maxsup_jax.data import _pillow
from maxsup_jax.data._operation import Operation, per_channel
from maxsup_jax.errors import UsageError, integer, number, one_of, shown, within

NAMES = (
  *('AutoContrast', 'Equalize', 'Invert', 'Rotate', 'Posterize', 'Solarize'),
  *('SolarizeAdd', 'Color', 'Contrast', 'Brightness', 'Sharpness'),
  *('ShearX', 'ShearY', 'TranslateX', 'TranslateY'),
)

_MOST = 10  # The largest magnitude.
# The arguments at the largest magnitude of operations that go both ways.
_LARGEST = {'Rotate': 30.0, 'ShearX': 0.3, 'ShearY': 0.3} | {
  'TranslateX': 0.45,
  'TranslateY': 0.45,
}
_PROBABILITY = 0.5


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a specification such as 'm9-mstd0.5-inc1' says.

  Attributes:
    magnitude: mN, the mean magnitude; an integer in [0, 10].
    magnitude_std: mstdX, the standard deviation of the magnitude.
    increasing: incX, whether a larger magnitude always means a stronger effect
      (of posterising, solarising and the four enhancements), 1 or 0.
    layers: nN, how many operations an image meets.
  """

  magnitude: int = _MOST
  magnitude_std: float = 0.0
  increasing: bool = False
  layers: int = 2


@functools.lru_cache
def parse_spec(text: str) -> Spec:
  """Reads a specification as timm does.

  Args:
    text: parts mN, mstdX, incX and nN in any order, with '-' between; what is
      left out has timm's default: m10-mstd0-inc0-n2. A first part 'rand', as in
      timm's own strings, changes nothing.

  Raises:
    UsageError: if a part is unknown or comes twice, or a value is out of range.

  Examples:
    >>> parse_spec('m9-mstd0.5-inc1')
    Spec(magnitude=9, magnitude_std=0.5, increasing=True, layers=2)
  """
  kinds = {'m': int, 'mstd': float, 'inc': int, 'n': int}
  parts = str(text).split('-')
  values: dict[str, Any] = {}
  for part in parts[1:] if parts[0] == 'rand' else parts:
    match = re.fullmatch(r'(m|mstd|inc|n)(\d+|\d*\.\d+)', part)
    if not match or (kinds[match[1]] is int and '.' in match[2]):
      raise UsageError(
        f'{part!r} in {text!r} is unknown; expected mN, mstdX, incN or nN, '
        "as in 'm9-mstd0.5-inc1'"
      )
    if match[1] in values:
      raise UsageError(f'{match[1]} appears twice in {text!r}')
    values[match[1]] = kinds[match[1]](match[2])
  # A larger mstd stands for a uniform magnitude in timm.
  limits = {'m': (0, _MOST), 'mstd': (0, 100), 'inc': (0, 1), 'n': (1, 100)}
  for key, value in values.items():
    check: Any = integer if isinstance(value, int) else number
    check(f'{key} in {text!r}', value, *limits[key])
  return Spec(
    magnitude=values.get('m', _MOST),
    magnitude_std=values.get('mstd', 0.0),
    increasing=bool(values.get('inc', 0)),
    layers=values.get('n', 2),
  )


def strength(
  name: str, magnitude: float, *, increasing: bool, negative: bool
) -> float | None:
  """The argument of an operation at a magnitude m in [0, 10].

  With t = m / 10, and s = -1 if `negative` and 1 otherwise:

  ======================  =====================  ==============
  operation               increasing             otherwise
  ======================  =====================  ==============
  Rotate                  30 s t degrees         the same
  ShearX, ShearY          0.3 s t                the same
  TranslateX, TranslateY  0.45 s t of the side   the same
  Posterize               4 - int(4 t) bits      int(4 t) bits
  Solarize                from 256 - int(256 t)  from int(256 t)
  SolarizeAdd             int(110 t)             the same
  Color, Contrast,        max(0.1, 1 + 0.9 s t)  0.1 + 1.8 t
  Brightness, Sharpness
  ======================  =====================  ==============

  It is None for operations without any.
  """
  fraction = magnitude / _MOST
  sign = -1.0 if negative else 1.0
  if name in _LARGEST:
    return sign * (fraction * _LARGEST[name])
  if name == 'Posterize':
    bits = int(fraction * 4)
    return 4 - bits if increasing else bits
  if name == 'Solarize':
    threshold = int(fraction * 256)
    return 256 - threshold if increasing else threshold
  if name == 'SolarizeAdd':
    return int(fraction * 110)
  if name in ('Color', 'Contrast', 'Brightness', 'Sharpness'):
    if increasing:
      return max(0.1, 1.0 + sign * (fraction * 0.9))
    return fraction * 1.8 + 0.1
  return None


def apply(
  name: str,
  image: Image.Image,
  argument: Any,
  *,
  fill: int | tuple[int, ...],
  resampling: Image.Resampling,
) -> Image.Image:
  """Applies one of `NAMES` to an image of mode L or RGB.

  Args:
    name: of the operation.
    image: the image; the result has its size and mode.
    argument: see `strength`.
    fill: the colour of what comes in from outside.
    resampling: the interpolation of rotations, shears and translations.
  """
  bands = len(image.getbands())
  match name:
    case 'AutoContrast':
      return ImageOps.autocontrast(image)
    case 'Equalize':
      return ImageOps.equalize(image)
    case 'Invert':
      return ImageOps.invert(image)
    case 'Posterize':
      # Pillow 13 refuses to keep 0 bits, which made images black before.
      mask = 256 - 2 ** (8 - argument)
      return image.point([i & mask for i in range(256)] * bands)
    case 'Solarize':
      return ImageOps.solarize(image, argument)
    case 'SolarizeAdd':
      table = [min(255, i + argument) if i < 128 else i for i in range(256)]
      return image.point(table * bands)
    case 'Color' | 'Contrast' | 'Brightness' | 'Sharpness':
      return getattr(ImageEnhance, name)(image).enhance(argument)
    case 'Rotate':
      return image.rotate(argument, resampling, fillcolor=fill)
  # A pixel (x, y) of the result is the one at (ax + by + c, dx + ey + f).
  matrix = {
    'ShearX': (1, argument, 0, 0, 1, 0),
    'ShearY': (1, 0, 0, argument, 1, 0),
    'TranslateX': (1, 0, argument * image.width, 0, 1, 0),
    'TranslateY': (1, 0, 0, 0, 1, argument * image.height),
  }[name]
  return image.transform(
    image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=fill
  )


@dataclasses.dataclass(frozen=True)
class RandAugment(Operation, name='rand_augment'):
  """The operation `rand_augment`: timm's 'rand-...', e.g. m9-mstd0.5-inc1.

  Two operations (nN) are chosen among 15 uniformly and independently. Each is
  left out with probability 0.5; otherwise its magnitude is normal with mean mN
  and standard deviation mstdX, clipped to [0, 10], and its sign random. What
  each does at a magnitude: see `strength` and `apply`.

  Attributes:
    spec: see `parse_spec`.
    interpolation: of rotations, shears and translations: 'nearest', 'bilinear'
      or 'bicubic'.
    mean: of the data set, per channel or one for all, in [0, 1]; pixels from
      outside the image have this colour, `round(255 * mean)`.

  Examples:
    >>> augment = RandAugment('m9-mstd0.5-inc1', mean=(0.485, 0.456, 0.406))
    >>> image = np.zeros((224, 224, 3), np.uint8)
    >>> augment(image, np.random.default_rng(0)).shape
    (224, 224, 3)

  References:
    Cubuk et al., RandAugment, NeurIPS 2020; the details are timm's
    (timm/data/auto_augment.py, version 1.0).
  """

  spec: str
  interpolation: str = 'bicubic'
  _: dataclasses.KW_ONLY
  mean: tuple[float, ...] = (0.0,)

  def _check(self) -> None:
    if not isinstance(self.spec, str):
      raise UsageError(
        f"spec is {shown(self.spec)}; expected text such as 'm9-mstd0.5-inc1'"
      )
    parse_spec(self.spec)
    one_of('interpolation', self.interpolation, _pillow.RESAMPLING)

  def _apply(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    spec = parse_spec(self.spec)
    pillow = _pillow.to_pillow(image, 'rand_augment')
    with within('rand_augment: '):
      mean = per_channel('mean', self.mean, image.shape[-1])
    fill = tuple(min(255, round(255 * x)) for x in mean)
    for index in rng.integers(len(NAMES), size=spec.layers):
      if rng.random() >= _PROBABILITY:
        continue
      magnitude = rng.normal(spec.magnitude, spec.magnitude_std)
      magnitude = min(max(float(magnitude), 0.0), _MOST)
      argument = strength(
        NAMES[index],
        magnitude,
        increasing=spec.increasing,
        negative=rng.random() < 0.5,
      )
      pillow = apply(
        NAMES[index],
        pillow,
        argument,
        fill=fill if len(fill) > 1 else fill[0],
        resampling=_pillow.RESAMPLING[self.interpolation],
      )
    return _pillow.to_array(pillow)
