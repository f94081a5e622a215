"""What XLA offers on a CPU: its options, and other forms of a convolution.

For the suite `train`: a residual block of ResNet-50, forwards and backwards, is
compiled with each option, and single convolutions in other forms. All take
turns with what the models have now.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.benchmark import report, timing
from maxsup_jax.models.resnet import BottleneckBlock

# Each changes one option of XLA's from its default (jaxlib 0.10). The second
# row changes nothing: what its ratio is off from 1, the machine is unsteady.
OPTIONS: dict[str, dict[str, Any]] = {
  'as it is': {},
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
PARTS = {
  'options': 'block',
  'pointwise': '1x1 convolution',
  'layout': '3x3 convolution',
}

# Rounds; images, side of the feature maps, and width of the block, which has
# four times as many channels at its ends.
ROUNDS, BATCH, SIZE, WIDTH = 15, 8, 28, 128


def measure() -> dict[str, Any]:
  """Times the options and the forms.

  Returns:
    For each of `PARTS` its rows: seconds, and the ratio to the first row; and
    `unknown`, the options that this XLA does not have.
  """
  x = _normal(0, BATCH, SIZE, SIZE, 4 * WIDTH)
  narrow = _normal(1, BATCH, SIZE, SIZE, WIDTH)
  kernel, square = (
    _normal(2, 1, 1, 4 * WIDTH, WIDTH),
    _normal(3, 3, 3, WIDTH, WIDTH),
  )
  lowered, params = _block(WIDTH, x)
  compiled = {n: compile_with(lowered, given) for n, given in OPTIONS.items()}
  parts = {
    'options': {
      name: functools.partial(program, params, x)
      for name, program in compiled.items()
      if program is not None
    },
    'pointwise': {
      'convolution': _both_ways(convolution('NHWC', 'HWIO'), x, kernel),
      'product': _both_ways(product, x, kernel),
    },
    'layout': {
      'NHWC': _both_ways(convolution('NHWC', 'HWIO'), narrow, square),
      'NCHW': _both_ways(
        convolution('NCHW', 'OIHW'),
        narrow.transpose(0, 3, 1, 2),
        square.transpose(3, 2, 0, 1),
      ),
    },
  }
  return {
    'shape': list(x.shape),
    'unknown': [name for name, program in compiled.items() if program is None],
    **{part: _timed(programs) for part, programs in parts.items()},
  }


def _normal(seed, *shape):
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


def convolution(images: str, kernels: str) -> Callable[..., jax.Array]:
  """A convolution in the layouts given."""
  return lambda x, kernel: lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=(images, kernels, images)
  )


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A convolution of 1x1 as a product of matrices."""
  return jnp.einsum('bhwc,cd->bhwd', x, kernel[0, 0])


def _both_ways(layer, x, kernel):
  """The output of a layer and both its gradients."""

  def run(x, kernel):
    y, pull = jax.vjp(layer, x, kernel)
    return y, pull(y)

  return functools.partial(jax.jit(run).lower(x, kernel).compile(), x, kernel)


def _timed(programs):
  timers = {
    name: timing.timer(lambda run=run: jax.block_until_ready(run()))
    for name, run in programs.items()
  }
  _, seconds = timing.time_in_turn(timers, ROUNDS, 1)
  first = next(iter(seconds.values()))
  return {
    name: {'seconds': timing.summary(x), 'ratio': timing.ratios(x, first)}
    for name, x in seconds.items()
  }


def describe(measured: Mapping[str, Any]) -> list[str]:
  """A table; times are those over the first of each part."""
  rows = {
    f'{title}: {name}': row
    for part, title in PARTS.items()
    for name, row in measured[part].items()
  }
  columns = (
    ('ms', 'seconds', report.spread('.1f', 1e3)),
    ('ratio', 'ratio', report.spread('.2f')),
  )
  return report.table(rows, columns, title='tried of XLA')
