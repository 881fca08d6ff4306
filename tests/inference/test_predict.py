"""The function that is deployed says what evaluation says, and computes no more."""

import jax
import numpy as np
import pytest

from capsjax import data, fields
from capsjax.data import ImageSet
from capsjax.inference.predict import make_predict
from capsjax.training import step as train_step
from capsjax.training.evaluate import evaluate, make_eval_step, make_reconstruct
from tests.stepping import ONE

B = 16


@pytest.fixture(scope="module")
def images() -> ImageSet:
    test = data.load("digits").test
    return ImageSet(test.images[:B], test.labels[:B])


def test_it_says_what_evaluation_says(tiny_config, images):
    """Scores, and reconstructions of the predicted classes; never augmented."""
    tiny_config.preprocess.crop = 7
    tiny_config.augment.shift = 2
    graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
    predict = jax.jit(make_predict(graphdef, tiny_config, reconstruct=True))
    found = predict(state.variables, images.images)
    assert sorted(found) == ["poses", "reconstructions", "scores"]

    step = make_eval_step(graphdef, tiny_config, ONE)
    evaluation = evaluate(step, state.variables, images, B, ONE)
    np.testing.assert_allclose(found["scores"], evaluation.scores, atol=1e-6)
    lengths = np.linalg.norm(np.asarray(found["poses"], np.float64), axis=2)
    np.testing.assert_allclose(lengths, evaluation.scores, atol=1e-5)
    classes = np.argmax(evaluation.scores, axis=1)
    _, drawn = make_reconstruct(graphdef, tiny_config)(
        state.variables, images.images, classes
    )
    assert drawn is not None
    np.testing.assert_allclose(found["reconstructions"], drawn, atol=1e-6)


@pytest.mark.usefixtures("compilation_with_optimizations")
def test_nothing_is_computed_for_what_is_left_out(tiny_config, images):
    """Not asked to reconstruct, it costs as much as a model without a decoder."""

    def flops(units: tuple[int, ...], reconstruct: bool) -> float:
        fields.update(tiny_config, {"model.decoder_units": units})
        graphdef, state = train_step.create(tiny_config, (8, 8, 1), 10)
        predict = make_predict(graphdef, tiny_config, reconstruct=reconstruct)
        compiled = jax.jit(predict).lower(state.variables, images.images).compile()
        cost = compiled.cost_analysis()
        assert cost is not None
        return cost["flops"]

    without = flops((32,), False)
    assert without == flops((), False) == flops((), True)
    decoder = 2 * B * (10 * 16 * 32 + 32 * 64)
    assert flops((32,), True) - without >= decoder
