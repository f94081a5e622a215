"""What XLA offers on a CPU: its options, and other forms of a convolution.

For the suite `train`: a residual block of ResNet-50, forwards and backwards, is
compiled with each option, and single convolutions in other forms. All take
turns with what the models have now.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments import _benchmark_timing as timing
from experiments import _benchmark_train_torch as pytorch
from maxsup_jax.models.resnet import BottleneckBlock

BASELINE = 'as it is'
# Each changes one option of XLA's from its default (jaxlib 0.10). The second
# row changes nothing: what its ratio is off from 1, the machine is unsteady.
OPTIONS: dict[str, dict[str, Any]] = {
  BASELINE: {},
  'once more': {},
  'onednn': {'xla_cpu_use_onednn': True},
  'onednn, custom calls': {'xla_cpu_experimental_onednn_custom_call': True},
  'xnnpack': {'xla_cpu_use_xnnpack': True},
  'xnnpack, graphs': {
    'xla_cpu_experimental_xnn_graph_fusion_mode': 'XNN_GRAPH_FUSION_MODE_GREEDY'
  },
  'ynnpack, convolutions': {
    'xla_cpu_experimental_ynn_fusion_type': (
      'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,'
      'LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION'
    )
  },
  'vectors of 512 bits': {'xla_cpu_prefer_vector_width': 512},
  'fast math': {'xla_cpu_enable_fast_math': True},
  'one thread in Eigen': {'xla_cpu_multi_thread_eigen': False},
  'fast run time': {'xla_cpu_opt_preset': 'CPU_OPT_PRESET_FAST_RUNTIME'},
  'no concurrent schedule': {
    'xla_cpu_enable_concurrency_optimized_scheduler': False
  },
  'no fusion emitters': {'xla_cpu_use_fusion_emitters': False},
}


def measure(
  rounds: int, *, batch: int = 8, size: int = 28, width: int = 128
) -> dict[str, Any]:
  """Times the options and the forms.

  Args:
    rounds: how often they take turns.
    batch: images.
    size: side of the feature maps.
    width: of the block, which has four times as many channels at its ends.

  Returns:
    `shape`, of the block's input, `unknown`, the options that this XLA does not
    have, and for `options`, `pointwise` and `layout` a
    row each: seconds, and the ratio to the first row, round by round.
  """
  x = _normal(0, batch, size, size, 4 * width)
  narrow = _normal(1, batch, size, size, width)
  lowered, params = _block(width, x)
  compiled = {n: compile_with(lowered, given) for n, given in OPTIONS.items()}
  options = {
    name: functools.partial(program, params, x)
    for name, program in compiled.items()
    if program is not None
  }
  kernel = _normal(2, 1, 1, 4 * width, width)
  pointwise = {
    'convolution': _both_ways(_convolution('NHWC', 'HWIO'), x, kernel),
    'product': _both_ways(_product, x, kernel),
  }
  square = _normal(3, 3, 3, width, width)
  layout = {
    'NHWC': _both_ways(_convolution('NHWC', 'HWIO'), narrow, square),
    'NCHW': _both_ways(
      _convolution('NCHW', 'OIHW'),
      narrow.transpose(0, 3, 1, 2),
      square.transpose(3, 2, 0, 1),
    ),
  }
  return {
    'shape': list(x.shape),
    'unknown': [name for name, program in compiled.items() if program is None],
    'options': _timed(options, rounds),
    'pointwise': _timed(pointwise, rounds),
    'layout': _timed(layout, rounds),
  }


def _normal(seed: int, *shape: int) -> jax.Array:
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.standard_normal(shape, np.float32))


def _block(width, x):
  """Gradients of a block, lowered, and its parameters."""
  block = BottleneckBlock(width=width)
  variables = block.init(jax.random.key(4), x, train=False)

  def loss(params, x):
    y, _ = block.apply(
      {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
    )
    return jnp.sum(jnp.square(y))

  params = variables['params']
  return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x), params


def compile_with(lowered: Any, options: dict[str, Any]) -> Any:
  """Compiles with options of XLA; None if it does not know them."""
  try:
    return lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    if 'No such compile option' not in str(error):
      raise
    return None


def _convolution(images: str, kernels: str) -> Callable:
  def apply(x, kernel):
    return lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=(images, kernels, images)
    )

  return apply


def _product(x, kernel):
  return jnp.einsum('bhwc,cd->bhwd', x, kernel[0, 0])


def _both_ways(layer, x, kernel):
  """The output of a layer and both its gradients."""

  def run(x, kernel):
    y, pull = jax.vjp(layer, x, kernel)
    return y, pull(y)

  return functools.partial(jax.jit(run).lower(x, kernel).compile(), x, kernel)


def _timed(programs, rounds):
  timers = {
    name: pytorch.timer(lambda run=run: jax.block_until_ready(run()))
    for name, run in programs.items()
  }
  _, seconds = timing.time_in_turn(timers, rounds, 1)
  first = seconds[next(iter(programs))]
  return {
    name: {'seconds': timing.summary(x), 'ratio': timing.ratios(x, first)}
    for name, x in seconds.items()
  }
