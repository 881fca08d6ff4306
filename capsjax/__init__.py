"""capsjax: capsule networks in JAX and Flax.

The library behind the commands in ``experiments``::

    import capsjax

    data = capsjax.load_data("digits", validation_examples=180)
    config = capsjax.Config(num_epochs=40, batch_size=64)
    config.model = capsjax.models.capsnet.Config.preset("digits")
    trained = capsjax.train(config, data, "runs/mine")
    model = capsjax.restore("runs/mine", data)
    print(capsjax.evaluate(model, data.test).metrics)
    scores = capsjax.predict(model, data.test.images[:16])["scores"]

Names are imported when they are first used, so ``import capsjax`` is quick and does
nothing to JAX or matplotlib.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capsjax import data, layers, losses, models, routings
    from capsjax.config import Config
    from capsjax.data import Dataset, ImageSet
    from capsjax.data import load as load_data
    from capsjax.errors import UserError
    from capsjax.inference.predict import predict
    from capsjax.inference.predict_files import predict_files
    from capsjax.models import build
    from capsjax.training.evaluate import Evaluation
    from capsjax.training.train import TrainingResult, train
    from capsjax.training.trained import TrainedModel, evaluate, restore

__all__ = [
    "Config",
    "Dataset",
    "Evaluation",
    "ImageSet",
    "TrainedModel",
    "TrainingResult",
    "UserError",
    "build",
    "data",
    "evaluate",
    "layers",
    "load_data",
    "losses",
    "models",
    "predict",
    "predict_files",
    "restore",
    "routings",
    "train",
]

_HOMES = {
    "Config": "config",
    "Dataset": "data",
    "Evaluation": "training.evaluate",
    "ImageSet": "data",
    "TrainedModel": "training.trained",
    "TrainingResult": "training.train",
    "UserError": "errors",
    "build": "models",
    "evaluate": "training.trained",
    "load_data": "data",
    "predict": "inference.predict",
    "predict_files": "inference.predict_files",
    "restore": "training.trained",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        home = importlib.import_module(f"capsjax.{_HOMES[name]}")
        found = getattr(home, "load" if name == "load_data" else name)
    elif name in __all__:
        found = importlib.import_module(f"capsjax.{name}")
    else:
        raise AttributeError(f"module 'capsjax' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
