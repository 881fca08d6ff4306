"""GoogLeNet against table 1, and what its auxiliary heads do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from capsjax import models
from capsjax.errors import SettingsError
from capsjax.models.cnns import googlenet


def shape_of(preset, size=224, channels=3, num_classes=1000, **changes):
    """The network without its numbers, and without a forward pass, for time."""
    config = googlenet.Config.preset(preset, **changes)
    shape = (size, size, channels)
    return nnx.eval_shape(lambda: config.build(shape, num_classes, nnx.Rngs(params=0)))


def test_the_number_of_parameters():
    """By module, each with its biases."""
    model = shape_of("imagenet")
    expected = [163_696, 388_736, 376_176, 449_160, 510_104]
    expected += [605_376, 868_352, 1_043_456, 1_444_080]
    assert [models.num_parameters(each) for each in model.inceptions] == expected
    joined = [256, 480, 512, 512, 512, 528, 832, 832, 1024]
    assert [each.channels for each in model.inceptions] == joined
    assert models.num_parameters(model) == 13_378_280
    assert (
        models.num_parameters(model) - models.num_parameters(model.heads) == 6_998_552
    )
    # 7x7, 1x1 and 3x3 convolutions; the last layer.
    rest = (147 * 64 + 64) + (64 * 64 + 64) + (9 * 64 * 192 + 192) + 1025 * 1000
    assert rest + sum(expected) == 6_998_552


@pytest.mark.parametrize(
    ("auxiliary_after", "total"), [((), 6_624_904), ((3, 6), 13_004_888)]
)
def test_torchvisions_form(auxiliary_after, total):
    model = shape_of("torchvision", auxiliary_after=auxiliary_after)
    assert models.num_parameters(model) == total


@pytest.mark.parametrize(
    ("preset", "size", "channels", "total"),
    [("cifar10", 32, 3, 451_626), ("mnist", 28, 1, 114_506)],
)
def test_the_small_forms(preset, size, channels, total):
    assert models.num_parameters(shape_of(preset, size, channels, 10)) == total


TINY = googlenet.Config(
    stem_channels=(4,),
    modules_per_stage=(1, 1),
    channels_1x1=(2, 2),
    channels_3x3_reduce=(2, 2),
    channels_3x3=(2, 2),
    channels_5x5_reduce=(2, 2),
    channels_5x5=(2, 2),
    channels_pool=(2, 2),
    auxiliary_after=(1,),
    auxiliary_units=8,
)


def test_a_head_has_scores_and_gradients_in_training_only():
    abstract = nnx.eval_shape(lambda: TINY.build((8, 8, 1), 10, nnx.Rngs(params=0)))
    graphdef, params, state = models.split(abstract)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), params)
    images = jnp.asarray(rng.uniform(size=(2, 8, 8, 1)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)

    @jax.jit
    @jax.value_and_grad
    def of_head(params, keys):
        model = nnx.merge(graphdef, params, state)
        assert model(images, keys=keys).auxiliary_scores == ()
        output = model(images, train=True, keys=keys)
        (scores,) = output.auxiliary_scores
        assert output.auxiliary_weight == 0.3
        assert scores.shape == (2, 10)
        return jnp.sum(scores**2)

    value, gradients = of_head(params, keys)
    assert all(np.any(x) for x in jax.tree.leaves(gradients["heads"]))
    assert np.any(gradients["inceptions"][0]["conv1x1"]["conv"]["kernel"][...])
    # What comes after the head has no part in its loss.
    for after in (gradients["inceptions"][1], gradients["logits"]):
        assert not any(np.any(x) for x in jax.tree.leaves(after))
    assert of_head(params, jax.random.split(jax.random.key(1), 2))[0] != value


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({}, 4, "window of 3 pixels does not fit into 2"),
        ({}, 64, "window of 5 pixels does not fit into 4"),
        ({"modules_per_stage": (2, 5)}, 224, "makes 7 modules, .* channels for 9"),
        ({"auxiliary_after": (10,)}, 224, "auxiliary_after is .* 9 modules"),
        ({"stem_channels": (64, 192)}, 224, "stem_channels has 2 numbers"),
        ({"channels_pool": (32,)}, 224, "1 channels_pool; give each module one"),
    ],
)
def test_settings_that_do_not_fit(changes, size, message):
    with pytest.raises(SettingsError, match=message):
        shape_of("imagenet", size, **changes)
