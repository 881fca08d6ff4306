"""What the classes of own images are not good for."""

from collections.abc import Sequence

import numpy as np

from capsjax.data.datasets import Dataset

_MOST = 8  # Names in a sentence.


def class_warnings(data: Dataset) -> list[str]:
    """Says which results the classes of a data set leave without a meaning.

    Args:
        data: a data set whose images have one label each.

    Returns:
        A sentence for each peculiarity: a single class, and classes without training,
        validation or test images.
    """
    found = []
    if data.num_classes == 1:
        found.append(
            f"the images have one class, {data.class_names[0]}: every network is right "
            "about all of them, and an accuracy of 1 says nothing; add images of "
            "another class"
        )
    for name, part in data.parts().items():
        present = set(np.unique(part.labels).tolist())
        absent = [c for i, c in enumerate(data.class_names) if i not in present]
        if not len(part) or not absent:
            continue
        classes = _listed(absent)
        if name == "train":
            found.append(f"no training image of {classes}: no network can learn these")
        else:
            found.append(
                f"no {name} image of {classes}: the {name} accuracy says nothing "
                "about such images"
            )
    return found


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST])
    return shown + f" and {len(names) - _MOST} more" * (len(names) > _MOST)
