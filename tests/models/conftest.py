"""What more than one test module of the models needs."""

import math

import jax
import numpy as np
import pytest


def _equations(jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for parameter in equation.params.values():
      inner = getattr(parameter, 'jaxpr', parameter)
      if hasattr(inner, 'eqns'):
        yield from _equations(inner)


@pytest.fixture
def equations():
  """Lists the primitive operations of a traced function, nested ones too."""
  return lambda fn, *args: list(_equations(jax.make_jaxpr(fn)(*args).jaxpr))


@pytest.fixture
def random_variables():
  """Draws variables with nothing at its initial value, without compiling."""

  def draw(model, images):
    rng = np.random.default_rng(0)

    def leaf(struct):
      if len(struct.shape) > 1:
        fan_in = math.prod(struct.shape[:-1])
        return rng.normal(0, fan_in**-0.5, struct.shape).astype('float32')
      return rng.uniform(0.5, 1.5, struct.shape).astype('float32')

    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree.map(leaf, shapes)

  return draw
