"""Operations counted by hand, and by XLA where nothing is a loop."""

import jax
import jax.numpy as jnp
import pytest

from capsjax.benchmarks import operations
from capsjax.benchmarks.operations import Operations


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_a_product_by_hand():
    found = operations.count(lambda a, b: jnp.tanh(a @ b), array(3, 5), array(5, 7))
    assert found == Operations(
        products=2 * 3 * 5 * 7,
        elementwise=3 * 7,
        product_bytes=4 * (15 + 35 + 21),
    )


def test_loops_count_as_often_as_they_run():
    def sixteen(x):
        return jax.lax.fori_loop(0, 16, lambda _, y: jnp.sin(y @ y), x)

    def mapped(x):
        return jax.lax.map(lambda row: jnp.sum(row * row), x)

    once = operations.count(lambda y: jnp.sin(y @ y), array(4, 4))
    assert operations.count(sixteen, array(4, 4)).products == 16 * once.products
    assert operations.count(mapped, array(10, 6)).elementwise == 10 * (6 + 1)

    def until(x):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 9, lambda y: y + 1, x)

    with pytest.raises(ValueError, match="until a condition holds"):
        operations.count(until, array(3))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("strides", "groups"), [((1, 1), 1), ((2, 2), 1), ((2, 1), 2)])
def test_convolutions_and_their_gradients_as_xla_counts_them(padding, strides, groups):
    def convolved(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def both(x, w):
        result, pull = jax.vjp(convolved, x, w)
        return result, pull(result)

    arguments = array(2, 12, 11, 4), array(3, 5, 4 // groups, 6)
    lowered = jax.jit(both).trace(*arguments).lower(lowering_platforms=("cuda",))
    found = operations.count(both, *arguments)
    assert found.products == lowered.cost_analysis()["flops"]


def test_the_other_platforms_branch_counts():
    def function(x):
        return jax.lax.platform_dependent(x, cpu=lambda y: y @ y @ y, default=jnp.sin)

    found = operations.count(function, array(4, 4))
    assert (found.products, found.elementwise) == (0, 16)


def test_the_larger_branch_of_a_condition_counts():
    def function(on, x):
        return jax.lax.cond(on, lambda y: y @ y @ y, lambda y: y @ y, x)

    found = operations.count(function, jax.ShapeDtypeStruct((), jnp.bool_), array(4, 4))
    assert found.products == 2 * 2 * 4**3


def test_what_nobody_uses_does_not_count():
    def function(x):
        unused = x @ x @ x
        used, _ = jax.jit(lambda y: (jnp.sin(y), y @ y))(x)
        return jax.lax.platform_dependent(
            used, unused, cpu=lambda y, z: z, default=lambda y, z: y
        )

    found = operations.count(function, array(4, 4))
    assert (found.products, found.elementwise) == (0, 16)
