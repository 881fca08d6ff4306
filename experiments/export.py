"""Exports a trained model as one file that runs without this project.

python -m experiments.export --workdir=runs/digits --batch_size=16

To use it you need jax and flatbuffers, and three lines::

    import jax, numpy as np
    model = jax.export.deserialize(bytearray(open("model_b16.jaxexport", "rb").read()))
    results = model.call(np.zeros((16, 8, 8, 1), np.uint8))

The images are raw, 0 to 255, and their number is the batch size. ``results["scores"]``
has a row for each image and a column for each class, and the largest score is the
prediction; a CapsNet's ``results["poses"]`` are those of its class capsules. The file
of the same name that ends in .json describes the artefact: shapes, platforms, class
names, and the run.

JAX promises to run an artefact for six months after the version that wrote it.
"""

import pathlib

from absl import flags

from capsjax.inference import export
from capsjax.training.trained import restore
from experiments import launch
from experiments.run_flags import RunFlags

_DATA_DIR = launch.define_data_dir()
_RUN = RunFlags()
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1, "Images in each call of the exported model, a fixed number."
)
_PLATFORMS = flags.DEFINE_list(
    "platforms",
    ["cpu", "cuda"],
    f"Platforms to run it on, out of {', '.join(export.PLATFORMS)}.",
)
_RECONSTRUCT = flags.DEFINE_bool(
    "reconstruct",
    False,
    "Adds the reconstructions of the predicted classes to the results.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    f"The file to write, NAME{export.SUFFIX}; by default "
    f"WORKDIR/exported/model_b{{batch_size}}{export.SUFFIX}, or exported/ here for a "
    "pretrained network. Replaces an earlier export of the same run, but no other "
    "file.",
)


def main() -> None:
    """Restores the parameters, writes the artefact and checks it."""
    folder = _RUN.folder
    name = f"model_b{_BATCH_SIZE.value}{export.SUFFIX}"
    path = pathlib.Path(_OUTPUT.value or _RUN.output("exported") / name).expanduser()
    export.check_path(path, folder)
    data = _RUN.load_data(_DATA_DIR.value)
    model = restore(folder, data, _RUN.checkpoint)
    exported = export.export(
        model,
        data,
        batch_size=_BATCH_SIZE.value,
        platforms=_PLATFORMS.value,
        reconstruct=_RECONSTRUCT.value,
    )
    export.save(exported, export.describe(exported, model, data), path, folder)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    for name, aval in export.outputs(exported).items():
        print(f"{name}: {aval.dtype.name} {list(aval.shape)}")
    if export.runs_here(exported):
        largest = export.check(path, model, data, data.test.images)
        print(f"largest difference from the model itself: {largest:.2g}")
    else:
        print(f"not checked: this machine has no {' or '.join(exported.platforms)}")


if __name__ == "__main__":
    launch.run(main)
