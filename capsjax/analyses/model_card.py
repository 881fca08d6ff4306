"""The card of a trained network: what it is, how it was made, and how good it is."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from capsjax.analyses import intervals
from capsjax.config import Config
from capsjax.data import Dataset


def text(
    name: str,
    config: Config,
    data: Dataset,
    num_parameters: int,
    facts: Mapping[str, Any],
) -> str:
    """The card in Markdown.

    Args:
        name: name of the network.
        config: the run's config.
        data: the run's data.
        num_parameters: number of learned parameters in the file.
        facts: ``"command"`` as text, ``"commit"``, ``"data"``, ``"test_errors"``,
            ``"test_examples"`` and ``"note"``.
    """
    errors, examples = facts["test_errors"], facts["test_examples"]
    wrong = intervals.accuracy(np.arange(examples) < errors)
    H, W, C = data.image_shape
    lines = [
        f"# {name}",
        "",
        f"The network `{config.model.name}` with {num_parameters:,} parameters, for "
        f"{data.title}.",
        "",
        f"- Input: images of {W}x{H} pixels, {C} channel{'s' * (C != 1)}, 0 to 255.",
        f"- Classes: {', '.join(data.class_names[:20])}"
        + f" and {len(data.class_names) - 20} more" * (len(data.class_names) > 20)
        + ".",
        f"- Test error: {100 * wrong.value:.2f} % ({errors} of {examples:,}); 95 % "
        f"interval {100 * wrong.low:.2f} to {100 * wrong.high:.2f} %.",
        f"- Data: {facts['data']}; {len(data.train):,} images to train on, "
        f"{len(data.validation):,} held out for validation.",
        f"- Command: `{facts['command']}`, at commit {facts['commit']}.",
        "",
        f"    python -m experiments.evaluate --pretrained={name}",
        "",
    ]
    if facts["note"]:
        lines += [facts["note"], ""]
    return "\n".join(lines)
