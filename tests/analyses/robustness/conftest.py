"""A network to attack, which all tests here share."""

import numpy as np
import pytest

from capsjax.analyses.robustness import detection
from capsjax.analyses.robustness.attack_runs import Images
from capsjax.analyses.robustness.victims import Victim
from capsjax.routings import dynamic
from capsjax.training import step as train_step
from capsjax.training.trained import TrainedModel
from experiments.configs import digits
from tests.stepping import take_steps


@pytest.fixture(scope="session")
def victim(digits_data) -> Victim:
    """A CapsNet with a decoder that recognises most digits; its detector is on."""
    config = digits.get_config("quick")
    config.data.validation_examples = 100
    config.batch_size, config.num_devices = 32, 1
    # Each iteration makes programs longer.
    routing = dynamic.Config(iterations=2)
    config.model = config.model.replace(routing=routing)
    _, states = take_steps(config, digits_data, 60)
    graphdef, _ = train_step.create(config, digits_data.image_shape, 10)
    trained = TrainedModel(config, graphdef, states[-1].variables)
    found = Victim("capsnet", trained, digits_data.image_shape, 10)
    return detection.with_threshold(found, digits_data.validation.images, 50)


@pytest.fixture
def images(digits_data) -> Images:
    """Ten images of the test set, not its first."""
    numbers = np.arange(7, 27, 2)
    test = digits_data.test
    return Images(test.images[numbers], test.labels[numbers], numbers, 10, seed=5)
