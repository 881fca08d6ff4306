"""What holds for every network: it trains, resumes and exports, on any devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from capsjax import config as config_lib
from capsjax import losses, models
from capsjax.config import Config
from capsjax.inference import export
from capsjax.losses import LOSSES
from capsjax.models import MODELS
from capsjax.models.capsules import (
    audio_capsnet,
    capsnet,
    efficient_capsnet,
    inverted_attention_capsnet,
    matrix_capsules,
    self_routing_resnet,
    vb_capsules,
)
from capsjax.models.cnns import (
    alexnet,
    audio_cnn,
    baseline_cnn,
    binarized_net,
    deep_convnet,
    drop_connect,
    fractional_max_pooling,
    googlenet,
    lenet,
    maxout_nin,
    multi_column_dnn,
    nin,
    pooling_cnn,
    recurrent_cnn,
    resnet,
    vgg,
    voxel_cnn,
)
from capsjax.routings import em, variational_bayes
from capsjax.runs.folder import RunFolder
from capsjax.runs.provenance import sha256
from capsjax.training import step as train_step
from capsjax.training.parallel import Devices
from capsjax.training.train import train
from capsjax.training.trained import evaluate, restore
from tests.stepping import ONE, back_to_step, take_steps

# Of capsules, beside the class capsules.
ONE_LAYER: dict[str, Any] = {
    "conv_channels": 4,
    "primary_types": 2,
    "capsule_types": (2,),
    "capsule_kernels": (3,),
    "capsule_strides": (1,),
}
# Small enough to compile within seconds.
SMALL = {
    config.name: config
    for config in (
        capsnet.Config.preset("digits_quick", conv1_channels=4, decoder_units=(8,)),
        baseline_cnn.Config(
            conv_channels=(4,), kernel_sizes=(3,), dense_units=(8,), dropout_rate=0.5
        ),
        deep_convnet.Config(channels=(4, 4, 8), dense_units=8),
        alexnet.Config(
            channels=(4, 4),
            kernel_sizes=(3, 3),
            conv_groups=(1, 2),
            first_stride=1,
            pooled=(1,),
            dense_units=(8,),
            paper_initializers=False,
        ),
        vgg.Config(channels=(4,), depths=(1,), batch_norm=True, dense_units=(8,)),
        googlenet.Config(
            stem_channels=(4,),
            modules_per_stage=(1,),
            channels_1x1=(2,),
            channels_3x3_reduce=(2,),
            channels_3x3=(2,),
            channels_5x5_reduce=(2,),
            channels_5x5=(2,),
            channels_pool=(2,),
            auxiliary_after=(),
        ),
        resnet.Config(channels=(4, 8), blocks=1),
        lenet.Config(padded_size=16, channels=(6, 16, 8), dense_units=12),
        nin.Config(
            channels=(4, 4, 4, 4, 4), kernel_sizes=(3, 3), initial_deviation=None
        ),
        maxout_nin.Config(channels=(4, 4, 4, 4, 4), kernel_sizes=(3, 3), pieces=2),
        drop_connect.Config(conv_channels=(4,), kernel_size=3, dense_units=8),
        # Sums of an odd number of signs are never zero.
        binarized_net.Config(
            conv_channels=(3, 3), dense_units=(), input_dropout_rate=0.2
        ),
        pooling_cnn.Config(pooling="tree_gated", channels=(4, 4, 4), blocks=1),
        fractional_max_pooling.Config(channels=4, pools=2, ratio=1.8),
        recurrent_cnn.Config(channels=8, recurrent_steps=1),
        multi_column_dnn.Config(
            padded_size=9,
            digit_width=7,
            conv_channels=(4,),
            kernel_sizes=(4,),
            pool_sizes=(2,),
            dense_units=(8,),
        ),
        audio_cnn.Config(
            channels=(4,), kernel_sizes=(5,), strides=(2,), pools=(4,), dropout_rate=0.5
        ),
        voxel_cnn.Config(channels=(4,), dense_units=8, dropout_rate=0.5),
        audio_capsnet.Config(
            channels=(4,), kernel_sizes=(5,), primary_kernel=5, primary_types=2
        ),
        efficient_capsnet.Config.preset(
            "digits", channels=(4, 4, 8), decoder_units=(8,)
        ),
        matrix_capsules.Config.preset(
            "digits", **ONE_LAYER, routing=em.Config(iterations=2)
        ),
        vb_capsules.Config.preset(
            "digits", **ONE_LAYER, routing=variational_bayes.Config(iterations=2)
        ),
        self_routing_resnet.Config(
            channels=(4, 8), blocks=1, capsule_types=2, capsule_dim=4, capsule_layers=2
        ),
        inverted_attention_capsnet.Config(
            channels=(4, 8),
            blocks=(1, 1),
            primary_types=2,
            capsule_types=(2,),
            capsule_kernels=(3,),
            capsule_strides=(1,),
        ),
    )
}


@pytest.fixture(params=MODELS)
def config(request) -> Config:
    """A few plain steps, in which a gradient that is N times too large is one."""
    config = Config(model=SMALL[request.param])
    config.data.name, config.data.validation_examples = "digits", 100
    config.augment.shift = 1
    config.batch_size, config.max_steps, config.log_every_steps = 16, 4, 2
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.1
    config.num_devices = 1
    if config.model.scores not in config.loss.takes:
        config.loss = next(
            loss() for loss in LOSSES.values() if config.model.scores in loss.takes
        )
    config_lib.check(config)
    return config


def test_several_devices_equal_one(config, digits_data):
    """Losses, parameters and other state."""
    if len(jax.devices()) < 2:
        pytest.skip("needs several devices, as a CPU is made into here")
    expected, states = take_steps(config, digits_data, 2)
    found, others = take_steps(config, digits_data, 2, Devices(jax.devices()[:2]))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
    assert sha256(states[0].params) == sha256(others[0].params)
    assert sha256(states[0].params) != sha256(states[-1].params)
    for a, b in zip(*map(jax.tree.leaves, (others[-1], states[-1])), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_run_resumes_is_restored_and_exported(config, digits_data, tmp_path):
    """In two parts it is the run in one piece, bit by bit."""
    config.checkpoint_every_steps = 2
    whole = train(config, digits_data, tmp_path / "whole")
    back_to_step(2, tmp_path / "whole", tmp_path / "parts")
    parts = train(config, digits_data, tmp_path / "parts", resume=True)
    assert whole is not None
    assert parts is not None
    assert sha256(whole.model.variables) == sha256(parts.model.variables)
    restored = restore(tmp_path / "whole", digits_data)
    assert sha256(restored.variables) == sha256(whole.model.variables)
    accuracy = evaluate(restored, digits_data.test).metrics["accuracy"]
    assert accuracy == whole.record["test_accuracy"]
    exported = export.export(restored, digits_data, batch_size=3, platforms=["cpu"])
    path = tmp_path / "model.jaxexport"
    export.save(exported, {}, path, RunFolder(tmp_path / "whole"))
    images = digits_data.test.images[:3]
    assert export.check(path, restored, digits_data, images) < 1e-5


def test_half_precision_keeps_its_state_in_float32(config, digits_data):
    config.dtype = "bfloat16"
    metrics, states = take_steps(config, digits_data, 1, ONE)
    assert all(np.isfinite(row["loss"]) for row in metrics)
    state = states[-1]
    leaves = jax.tree.leaves((state.params, state.model_state))
    assert {x.dtype for x in leaves} == {np.dtype("float32")}


def test_black_images_and_an_example_alone(config):
    """Finite losses and gradients; an example does not depend on its batch mates."""
    graphdef, state = train_step.create(config, (8, 8, 1), 10)
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(4, 8, 8, 1)).astype(np.float32)
    images[1] = 0

    def loss_and_scores(params, images):
        variables = state.variables.replace(params=params)
        labels = jnp.zeros(len(images), jnp.int32)
        output, _ = models.apply(graphdef, variables, images, labels, "float32")
        parts = losses.per_example(
            config.loss,
            output.scores,
            labels,
            reconstructions=output.reconstructions,
            targets=images,
        )
        return jnp.sum(parts["loss"]), output.scores

    gradient = jax.jit(jax.value_and_grad(loss_and_scores, has_aux=True))
    # What comes before parameters that are zero has no gradient at first.
    params = jax.tree.map(
        lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), state.params
    )
    (loss, scores), gradients = gradient(params, images)
    assert np.isfinite(loss)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))
    assert all(np.any(x) for x in jax.tree.leaves(gradients))
    others = images[::-1].copy()
    others[3] = images[0]
    (_, alone), _ = gradient(params, others)
    np.testing.assert_allclose(alone[3], scores[0], atol=1e-5)


def test_it_has_smaller_sizes(config):
    for size in ("quick", "cpu"):
        smaller = type(config.model)().smaller(size)
        assert smaller != type(config.model)()
