"""Writes the network of a run as one file, with a model card, to give it away.

python -m experiments.publish --workdir=runs/efficient --checkpoint=best \
    --output=efficient_capsnet_mnist.safetensors

The file holds parameters, config and the description of the data; evaluate, export and
perturb take it as --pretrained=FILE. The card, of the same name with .md, says what the
network is, how it was trained and what its error is; --note adds what else its users
should know. Evaluates the test images first, so that the card's figure is that of the
file.
"""

import functools
import json
import pathlib
import shlex
import tempfile

from absl import flags

from capsjax.analyses import model_card
from capsjax.errors import UserError
from capsjax.inference import pretrained
from capsjax.runs.folder import RunFolder, write_whole
from capsjax.runs.progress import Progress
from capsjax.training.trained import evaluate, restore
from experiments import launch
from experiments.run_flags import RunFlags

_DATA_DIR = launch.define_data_dir()
_RUN = RunFlags()
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    f"The file to write, NAME{pretrained.SUFFIX}; its card goes beside it.",
    required=True,
)
_DECODER = flags.DEFINE_bool("decoder", False, "Keeps the decoder, if there is one.")
_NOTE = flags.DEFINE_string(
    "note", "", "Text for the card: what the network is not good for, and so on."
)

# Of the machine that trained; of no use elsewhere.
_LOCAL_FLAGS = ("--workdir", "--data_dir", "--resume", "-u")


def main() -> None:
    """Packs, evaluates what was packed, and writes file and card."""
    path = pathlib.Path(_OUTPUT.value).expanduser()
    if path.suffix != pretrained.SUFFIX:
        raise UserError(f"{path} does not end in {pretrained.SUFFIX}")
    folder = _RUN.folder
    data = _RUN.load_data(_DATA_DIR.value)
    env = folder.load_env()
    facts = {
        "commit": env.get("commit"),
        "command": shlex.join(
            word
            for word in env.get("command") or ()
            if not word.startswith(_LOCAL_FLAGS)
        ),
        "data": data.provenance,
        "note": _NOTE.value,
    }
    with tempfile.TemporaryDirectory() as temporary:
        packed = pathlib.Path(temporary, path.name)
        pack = functools.partial(
            pretrained.pack,
            folder,
            data,
            which=_RUN.checkpoint,
            with_decoder=_DECODER.value,
        )
        pack(packed, facts)
        unpacked = RunFolder(pathlib.Path(temporary, path.stem))
        pretrained.unpack(str(packed), unpacked)
        model = restore(unpacked, data)
        with Progress("evaluating", len(data.test), unit="images") as progress:
            found = evaluate(model, data.test, on_batch=progress.advance)
        errors = round((1 - found.metrics["accuracy"]) * len(data.test))
        facts |= {"test_errors": errors, "test_examples": len(data.test)}
        count = pack(path, facts)
    card = model_card.text(path.stem, model.config, data, count, facts)
    write_whole(path.with_suffix(".md"), card.encode())
    print(json.dumps({"parameters": count, **facts}, indent=2))
    print(f"{path} ({path.stat().st_size / 1e6:.2f} MB), card in {path.stem}.md")


if __name__ == "__main__":
    launch.run(main)
