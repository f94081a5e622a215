"""Chains of image operations, written as text in a configuration."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from maxsup_jax.data._operation import Operation
from maxsup_jax.data.color import (
  ColorJitter,
  PhotometricDistortion,
  Standardize,
  TfDistort,
)
from maxsup_jax.data.decoding import EncodedImage
from maxsup_jax.data.erasing import RandomErasing
from maxsup_jax.data.rand_augment import RandAugment
from maxsup_jax.data.resizing import (
  RandomResize,
  RandomResizedCrop,
  Resize,
  ResizeExact,
  ResizeWithin,
)
from maxsup_jax.data.transforms import (
  CenterCrop,
  Flip,
  Pad,
  PadAndCrop,
  RandomCrop,
  Rotate,
)
from maxsup_jax.errors import UsageError, shown, unknown

OPERATIONS: Mapping[str, type[Operation]] = MappingProxyType(
  {
    operation.name: operation
    for operation in (
      *(CenterCrop, ColorJitter, Flip, Pad, PadAndCrop, PhotometricDistortion),
      *(RandAugment, RandomCrop, RandomErasing, RandomResize),
      *(RandomResizedCrop, Resize, ResizeExact, ResizeWithin, Rotate),
      *(Standardize, TfDistort),
    )
  }
)

# Arguments that come from the data set, not from the text.
_STATISTICS = ('mean', 'std')


@dataclasses.dataclass(frozen=True)
class Transform:
  """Image operations, one after the other; made by `parse_transform`.

  Attributes:
    operations: the operations.
    text: the text that they were read from.

  Examples:
    >>> transform = parse_transform('pad_and_crop(4) | flip')
    >>> image = np.zeros((32, 32, 3), np.uint8)
    >>> transform(image, np.random.default_rng(0)).shape
    (32, 32, 3)
    >>> transform.random
    True
  """

  operations: tuple[Operation, ...] = ()
  text: str = ''

  @property
  def random(self) -> bool:
    """Whether any of the operations is random."""
    return any(operation.random for operation in self.operations)

  @property
  def gives_floats(self) -> bool:
    """Whether images come out as float32, not as uint8."""
    return any(operation.gives_floats for operation in self.operations)

  @property
  def standardizes(self) -> bool:
    """Whether `standardize` follows on all that leaves the scale of pixels."""
    makers = [o for o in self.operations if o.gives_floats]
    return bool(makers) and isinstance(makers[-1], Standardize)

  @property
  def takes_encoded(self) -> bool:
    """Whether the first operation decodes no more than it needs."""
    return bool(self.operations) and self.operations[0].takes_encoded

  def __call__(
    self,
    image: np.ndarray | EncodedImage,
    rng: np.random.Generator | None = None,
  ) -> np.ndarray:
    """Applies the operations.

    Args:
      image: uint8 `[H, W, C]`, or an image that is not decoded yet; it is not
        changed.
      rng: what the operations draw from; not needed if none is random.

    Returns:
      `[H', W', C]`, uint8 or, after `tf_distort` or `standardize`, float32. It
      may be `image` itself, or a view of it.
    """
    out: Any = image
    if isinstance(image, EncodedImage) and not self.takes_encoded:
      out = image.decode()
    for operation in self.operations:
      out = operation(out, rng)
    return out

  def with_labels(
    self,
    image: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Applies the operations to an image and its label map.

    Args:
      image: uint8 `[H, W, C]`.
      labels: uint8 `[H, W]`, 255 for what does not count.
      rng: what the operations draw from; not needed if none is random.

    Returns:
      The image `[H', W', C]`, as `__call__` does, and labels uint8 `[H', W']`.
      No label is interpolated.

    Raises:
      UsageError: for operations that cannot do so: `parse_transform` with
        `labels=True` refuses them at once.
    """
    for operation in self.operations:
      image, labels = operation.with_labels(image, labels, rng)
    return image, labels


def parse_transform(
  text: str,
  *,
  mean: Sequence[float] = (0,),
  std: Sequence[float] = (1,),
  labels: bool = False,
) -> Transform:
  """Reads a chain of image operations from text.

  Operations stand between '|' and are applied from left to right. Their
  arguments are literals of Python (or quotients such as `3/4`), by position or
  by name; a name alone is a call without arguments. No text is the identity.
  `OPERATIONS` has all operations, and their attributes are the arguments.

  Args:
    text: e.g. "random_resized_crop(224, interpolation='bicubic') | flip".
    mean: of the data set, per channel or one for all, pixels being in [0, 1];
      for the operations that need a colour (`pad`, `rand_augment`,
      `random_erasing`).
    std: its standard deviation.
    labels: refuses operations that cannot be applied to label maps.

  Returns:
    The transform.

  Raises:
    UsageError: if the text is no such chain, or if an operation or an argument
      is unknown, missing or out of range.

  Examples:
    >>> parse_transform('resize(256) | center_crop(224)').operations
    (Resize(size=256, interpolation='bilinear'), CenterCrop(size=224))
  """
  if not isinstance(text, str):
    raise UsageError(f'a transform is {shown(text)}; expected text')
  statistics = {
    'mean': tuple(float(x) for x in mean),
    'std': tuple(float(x) for x in std),
  }
  operations: list[Operation] = []
  if text.strip():
    try:
      # The parentheses allow line breaks.
      expression = ast.parse(f'(\n{text}\n)', mode='eval').body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
      raise _no_chain(text) from error
    operations = [_operation(n, text, statistics) for n in _links(expression)]
  _check_floats(operations)
  for operation in operations if labels else ():
    if not operation.takes_labels:
      able = sorted(n for n, o in OPERATIONS.items() if o.takes_labels)
      raise UsageError(
        f'{operation.name} cannot be applied to label maps; expected '
        f'operations among {", ".join(able)}'
      )
  return Transform(tuple(operations), text)


def _links(node: ast.expr) -> list[ast.expr]:
  """The operands of `a | b | c`, in order."""
  links = []
  while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
    links.append(node.right)
    node = node.left
  return [node, *reversed(links)]


def _operation(
  node: ast.expr, text: str, statistics: Mapping[str, tuple[float, ...]]
) -> Operation:
  """The operation that a name or a call stands for."""
  call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
  if not isinstance(call.func, ast.Name):
    raise _no_chain(text)
  name = call.func.id
  if name not in OPERATIONS:
    raise unknown(f'operation {name!r} in a transform', name, OPERATIONS)
  parameters = inspect.signature(OPERATIONS[name]).parameters
  own = [p for p in parameters.values() if p.name not in _STATISTICS]
  names = [p.name for p in own]
  given = dict(zip(names, call.args))
  problem = None
  if len(call.args) > len(own):
    problem = f'got {len(call.args)} arguments'
  for keyword in call.keywords:
    if keyword.arg not in names:
      problem = f'got an unknown argument {keyword.arg or "**"!r}'
    elif keyword.arg in given:
      problem = f'got {keyword.arg} twice'
    given[str(keyword.arg)] = keyword.value
  for p in own:
    if p.default is p.empty and p.name not in given:
      problem = f'got no {p.name}'
  if problem:
    raise UsageError(f'{name}: {problem}; expected {_usage(name, own)}')
  arguments = {key: _literal(name, key, n) for key, n in given.items()}
  arguments |= {k: v for k, v in statistics.items() if k in parameters}
  return OPERATIONS[name](**arguments)


def _literal(operation: str, name: str, node: ast.expr) -> Any:
  """The value of a literal, lists being tuples, or of a quotient of numbers."""
  try:
    if isinstance(node, (ast.Tuple, ast.List)):
      return tuple(_literal(operation, name, item) for item in node.elts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
      return ast.literal_eval(node.left) / ast.literal_eval(node.right)
    return ast.literal_eval(node)
  except (ValueError, TypeError, ArithmeticError) as error:
    if isinstance(error, UsageError):
      raise
    raise UsageError(
      f'{operation}: {name} is {ast.unparse(node)}; expected a literal such as '
      "0.5, (0.2, 1.8) or 'bicubic' (text in quotes)"
    ) from error


def _usage(name: str, parameters: Sequence[inspect.Parameter]) -> str:
  """How an operation is called, e.g. 'resize(size, interpolation=...)'."""
  arguments = [
    p.name if p.default is p.empty else f'{p.name}={p.default!r}'
    for p in parameters
  ]
  return f'{name}({", ".join(arguments)})'


def _check_floats(operations: Sequence[Operation]) -> None:
  """Refuses operations for bytes after one that makes floats."""
  maker = None
  for operation in operations:
    if maker is not None and not operation.takes_floats:
      raise UsageError(
        f'{operation.name} needs a uint8 image, but follows {maker.name}, '
        'which makes floats'
      )
    if operation.gives_floats:
      maker = operation


def _no_chain(text: str) -> UsageError:
  line = ' '.join(text.split())
  for link in line.split('|'):
    match = re.fullmatch(r'(\w+) ?\(.*\)', link.strip())
    if match and match[1] in OPERATIONS:
      try:
        ast.parse(link.strip())
      except (SyntaxError, ValueError, RecursionError, MemoryError):
        return UsageError(
          f'{match[1]}: cannot parse the arguments in {link.strip()!r}; text '
          "needs quotes, as in rand_augment('m9-mstd0.5-inc1')"
        )
  return UsageError(
    f"a transform is {line!r}; expected a chain such as 'resize(256) | "
    "center_crop(224)'"
  )
