"""Mixup and cutmix, on the devices."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from maxsup_jax import errors
from maxsup_jax.errors import UsageError
from maxsup_jax.losses import Objective
from maxsup_jax.training.parallel import AXIS

MODES = ('batch', 'pair')

# What the key of a step is folded with: other draws of the step fold it with
# something else.
_STREAM = int.from_bytes(b'mix', 'big')


@dataclasses.dataclass(frozen=True)
class Mixing:
  """How images are mixed: the fields of `config.mixing`.

  Attributes:
    mixup: the alpha of mixup, of Beta(alpha, alpha); 0 is off.
    cutmix: the alpha of cutmix; 0 is off.
    probability: of mixing a batch or, in the mode 'pair', a pair at all.
    switch: the probability of cutmix where both alphas are positive.
    mode: 'batch', one draw for the whole global batch, or 'pair', one draw for
      each pair of images.

  Raises:
    UsageError: for a value out of its range.

  Examples:
    >>> Mixing(mixup=0.8, cutmix=1.0).active, Mixing().active
    (True, False)
  """

  mixup: float = 0.0
  cutmix: float = 0.0
  probability: float = 1.0
  switch: float = 0.5
  mode: str = 'batch'

  def __post_init__(self):
    with errors.within('config.mixing.'):
      for name in ('mixup', 'cutmix'):
        errors.number(name, getattr(self, name), low=0)
      for name in ('probability', 'switch'):
        errors.number(name, getattr(self, name), low=0, high=1)
      errors.one_of('mode', self.mode, MODES)

  @property
  def active(self) -> bool:
    """Whether anything is ever mixed."""
    return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0

  def check(
    self,
    objective: Objective,
    *,
    name: str,
    num_classes: int,
    batch_size: int,
    device_count: int,
    repeats: int = 1,
  ) -> None:
    """Refuses configs that cannot train on mixed images; compiles nothing.

    Args:
      objective: is tried on labels that are distributions.
      name: what the objective is called, for the message.
      num_classes: of the dataset.
      batch_size: over all devices.
      device_count: how many they are.
      repeats: how often an image comes, see `data.train_batches`.

    Raises:
      UsageError: for an odd number of examples on a device, a batch in which
        an image would be mixed with itself, or an objective that is not defined
        for distributions.
    """
    if not self.active:
      return
    share = batch_size // device_count
    if share % 2:
      raise UsageError(
        f'config.batch_size is {batch_size}, which is {share} on each of '
        f'{device_count} devices; expected an even number, as config.mixing '
        'pairs the examples of a device'
      )
    if repeats > 1 and batch_size < 2 * repeats:
      raise UsageError(
        f'config.batch_size is {batch_size} and config.dataset.repeats '
        f'{repeats}, so config.mixing would mix images with themselves; '
        f'expected a batch of at least {2 * repeats}'
      )
    soft = jnp.full((1, 2, num_classes), 1 / num_classes)
    inputs = dict.fromkeys(objective.needs, soft)

    def apply(labels, inputs):
      return objective.apply(
        objective.init(),
        jnp.zeros((2, num_classes)),
        labels,
        step=0,
        where=jnp.ones(2, bool),
        **inputs,
      )

    try:
      jax.eval_shape(jax.vmap(apply, axis_name=AXIS), soft, inputs)
    except (TypeError, ValueError) as e:
      raise UsageError(
        f'config.mixing mixes labels, which the objective {name!r} does not '
        f'take ({" ".join(str(e).split())}); set config.mixing.mixup and '
        'cutmix to 0, or choose another objective'
      ) from e


class Draws(NamedTuple):
  """What is random in a pair of images.

  Attributes:
    kept: float32, the share of an image that remains its own; 1 where nothing
      is mixed. With cutmix it is the share of the pixels.
    cutmix: bool, cutmix rather than mixup.
    box: int32 top, bottom, left and right of what cutmix exchanges; the rows
      from top to below bottom.
  """

  kept: jax.Array
  cutmix: jax.Array
  box: tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def mix(
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  num_classes: int,
  *,
  mixup: float = 0.0,
  cutmix: float = 0.0,
  probability: float = 1.0,
  switch: float = 0.5,
  mode: str = 'batch',
  axis_name: str | None = None,
  where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  r"""Mixes each image of a batch, and its label, with those of a partner.

  With :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` and the partner
  :math:`(x', y')` of an example :math:`(x, y)`:

  * mixup: :math:`\lambda x + (1 - \lambda) x'`;
  * cutmix: a box of :math:`x` is taken from :math:`x'`. Its sides are
    :math:`\lfloor\sqrt{1 - \lambda}\,H\rfloor` and
    :math:`\lfloor\sqrt{1 - \lambda}\,W\rfloor`, its centre is uniform, and what
    lies outside of the image is cut off. Then :math:`\lambda` becomes the share
    of the pixels that is left of :math:`x`;
  * the label is :math:`\lambda\,\mathrm{onehot}(y) + (1 - \lambda)\,
    \mathrm{onehot}(y')` in both.

  This is what timm computes but for the partner, which there is the same
  example of the reversed batch of one GPU. Here the partners are the rows
  :math:`2i` and :math:`2i + 1` of the global batch: nothing crosses devices,
  and the number of devices does not matter. Where the order of the batch is a
  random permutation, as in training, both are a random partner.

  A pair is keyed by its position in the global batch. Each of its two images
  has the other as its partner, with the same draw.

  Args:
    key: the same on every device; of the seed and the step.
    images: float `[b, H, W, C]`, a device's part, b even. Integers are
      converted to float32, and not normalised.
    labels: int `[b]`, or float distributions `[b, K]`.
    num_classes: K.
    mixup: the alpha of mixup; 0 is off.
    cutmix: the alpha of cutmix; 0 is off.
    probability: of mixing at all.
    switch: the probability of cutmix where both alphas are positive.
    mode: 'batch', one draw for the global batch, or 'pair'.
    axis_name: the mapped axis over which the batch is split, if it is.
    where: bool `[b]`, False for padding. A pair with padding in it is left as
      it is, so that nothing of the padding gets into an image or a label.

  Returns:
    The images, in their dtype, and the labels, float32 `[b, K]`.

  Raises:
    UsageError: for an odd b, or a value out of its range.

  Examples:
    >>> import numpy as np
    >>> images, labels = np.zeros((2, 8, 8, 1), np.float32), np.array([0, 1])
    >>> images[1] = 1
    >>> mixed, soft = mix(jax.random.key(0), images, labels, 2, cutmix=1.0)

    The share of ones in an image is the weight of the label 1:

    >>> bool(np.allclose(mixed.mean((1, 2, 3)), soft[:, 1]))
    True

  References:
    Zhang et al., `mixup: Beyond Empirical Risk Minimization
    <https://arxiv.org/abs/1710.09412>`_, 2018, section 2. Yun et al., `CutMix
    <https://arxiv.org/abs/1905.04899>`_, 2019, eq. 1 and 2.
  """
  settings = Mixing(mixup, cutmix, probability, switch, mode)
  images, kept_B = mix_images(key, images, settings, axis_name, where)
  return images, mix_labels(labels, kept_B, num_classes)


def mix_images(
  key: jax.Array,
  images: jax.Array,
  mixing: Mixing,
  axis_name: str | None = None,
  where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The images of `mix`, and what `mix_labels` needs.

  Args:
    key: see `mix`.
    images: see `mix`.
    mixing: the settings.
    axis_name: see `mix`.
    where: see `mix`.

  Returns:
    The images, and float32 `[b]`: the share of each that is its own.
  """
  B, H, W, _ = images.shape
  if B % 2:
    raise UsageError(
      f'a device has {B} examples; expected an even number, as mixing pairs '
      'them'
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    images = images.astype(jnp.float32)
  if not mixing.active:
    return images, jnp.ones(B, jnp.float32)
  P = B // 2
  key = jax.random.fold_in(key, _STREAM)
  if mixing.mode == 'batch':
    drawn = draw(key, (H, W), mixing)
    drawn = jax.tree.map(lambda x: jnp.broadcast_to(x, (P,)), drawn)
  else:
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * P
    keys_P = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(P))
    drawn = jax.vmap(lambda k: draw(k, (H, W), mixing))(keys_P)
  kept_P = drawn.kept
  if where is not None:
    kept_P = jnp.where(where.reshape(P, 2).all(1), kept_P, 1.0)
  untouched = (kept_P == 1)[:, None, None, None, None]
  pairs = images.reshape(P, 2, *images.shape[1:])
  # Not even 0 times a partner that is no partner: it may be NaN.
  partners = jnp.where(untouched, pairs, pairs[:, ::-1])
  kept = kept_P[:, None, None, None, None]
  blend = (kept * pairs + (1 - kept) * partners).astype(images.dtype)
  paste = jnp.where(
    _inside(drawn.box, H, W)[:, None, :, :, None], partners, pairs
  )
  mixed = jnp.where(drawn.cutmix[:, None, None, None, None], paste, blend)
  return mixed.reshape(images.shape), jnp.repeat(kept_P, 2)


def mix_labels(
  labels: jax.Array, kept_B: jax.Array, num_classes: int
) -> jax.Array:
  """The labels of `mix`.

  Args:
    labels: int `[b]`, or float distributions `[b, K]`.
    kept_B: float32 `[b]`, see `mix_images`.
    num_classes: K.

  Returns:
    float32 `[b, K]`.

  Examples:
    >>> print(mix_labels(jnp.array([0, 2]), jnp.array([0.75, 0.75]), 3))
    [[0.75 0.   0.25]
     [0.25 0.   0.75]]
  """
  own_BK = labels
  if labels.ndim == 1:
    own_BK = jax.nn.one_hot(labels, num_classes)
  own_BK = own_BK.astype(jnp.float32)
  partners_BK = own_BK.reshape(-1, 2, num_classes)[:, ::-1]
  partners_BK = partners_BK.reshape(own_BK.shape)
  kept_B1 = kept_B[:, None]
  partners_BK = jnp.where(kept_B1 == 1, own_BK, partners_BK)
  return kept_B1 * own_BK + (1 - kept_B1) * partners_BK


def draw(key: jax.Array, shape: tuple[int, int], mixing: Mixing) -> Draws:
  """Draws how one pair is mixed.

  Args:
    key: of the pair.
    shape: height and width of the images.
    mixing: the settings; one of the alphas is positive.

  Returns:
    Scalars.
  """
  mixed_key, switch_key, beta_key, y_key, x_key = jax.random.split(key, 5)
  cutmix = jnp.asarray(mixing.cutmix > 0)
  alpha = jnp.asarray(mixing.cutmix or mixing.mixup, jnp.float32)
  if mixing.mixup > 0 and mixing.cutmix > 0:
    cutmix = jax.random.bernoulli(switch_key, mixing.switch)
    alpha = jnp.where(cutmix, mixing.cutmix, mixing.mixup)
  kept = jax.random.beta(beta_key, alpha, alpha, dtype=jnp.float32)
  mixed = jax.random.bernoulli(mixed_key, mixing.probability)
  kept = jnp.where(mixed, kept, 1.0)
  H, W = shape
  box, pixels = cut_box(
    kept,
    jax.random.randint(y_key, (), 0, H),
    jax.random.randint(x_key, (), 0, W),
    shape,
  )
  return Draws(jnp.where(cutmix, pixels, kept), cutmix, box)


def cut_box(
  kept: jax.Array, y: jax.Array, x: jax.Array, shape: tuple[int, int]
) -> tuple[tuple[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]:
  """The box that cutmix exchanges, and what it leaves.

  Args:
    kept: float32, the share to keep if nothing of the box were cut off.
    y: int32, the row of the box's centre.
    x: int32, the column.
    shape: height and width of the images.

  Returns:
    Top, bottom, left and right, int32, and the share of the pixels that are
    outside of the box, float32.

  Examples:
    >>> box, share = cut_box(0.75, 0, 4, (8, 8))
    >>> [int(side) for side in box], float(share)
    ([0, 2, 2, 6], 0.875)
  """
  H, W = shape
  ratio = jnp.sqrt(1 - jnp.asarray(kept, jnp.float32))

  def ends(size, centre):
    side = jnp.floor(size * ratio).astype(jnp.int32)
    low = jnp.clip(centre - side // 2, 0, size)
    return low, jnp.clip(centre + (side + 1) // 2, 0, size)

  (top, bottom), (left, right) = ends(H, y), ends(W, x)
  outside = H * W - (bottom - top) * (right - left)
  # XLA may multiply by the reciprocal, and then n / n is not exactly 1.
  share = jnp.where(
    outside == H * W, 1.0, outside.astype(jnp.float32) / (H * W)
  )
  return (top, bottom, left, right), share


def _inside(box: tuple[jax.Array, ...], H: int, W: int) -> jax.Array:
  """The pixels of the boxes, bool `[P, H, W]`."""
  top, bottom, left, right = (side[:, None, None] for side in box)
  rows, columns = jnp.arange(H)[:, None], jnp.arange(W)
  return (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
