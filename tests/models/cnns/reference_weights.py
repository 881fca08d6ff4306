"""Networks of other libraries, held against ours: parameters by name, and scores.

The parameters are a function of their names and shapes, so that a file of names, shapes
and scores is all that a test needs. ``reference_networks.json`` has them; run this in
an environment with PyTorch and torchvision to make it again (here with 2.13 and 0.28):

    python tests/models/cnns/reference_weights.py

torchvision's AlexNet and VGG have fewer units here, and its VGG fewer channels, so that
a test takes no time; every layer is there. The residual network for CIFAR-10 is the one
of akamaster/pytorch_resnet_cifar10, whose shortcuts have no parameters, written here.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

FILE = pathlib.Path(__file__).with_name("reference_networks.json")
IMAGE_SIZES = {
    "alexnet": 224,
    "vgg16": 64,
    "vgg16_bn": 64,
    "googlenet": 64,
    "resnet50": 64,
    "resnet20": 32,
}
CLASSES = 7


def image(size: int) -> np.ndarray:
    """[3, H, W] float32, channels first."""
    rng = np.random.default_rng(size)
    return rng.normal(size=(3, size, size)).astype(np.float32)


def weights(shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters and running averages that keep features of the order of 1."""
    rng = np.random.default_rng(0)
    made = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 2, shape)
        elif len(shape) > 1:
            bound = np.sqrt(6 / np.prod(shape[1:]))
            values = rng.uniform(-bound, bound, shape)
        elif name.endswith("weight"):
            values = rng.uniform(0.5, 1, shape)
        else:
            values = rng.uniform(-0.2, 0.2, shape)
        made[name] = values.astype(np.float32)
    return made


def recorded(name: str) -> tuple[dict[str, np.ndarray], list[float]]:
    """A network's parameters, and its scores of `image`."""
    found = json.loads(FILE.read_text())[name]
    shapes = {key: map(int, x.split("x")) for key, x in found["shapes"].items()}
    return weights(shapes), found["scores"]


def networks() -> dict[str, Any]:
    """The other libraries' networks by name."""
    import torch
    from torch import nn
    from torch.nn import functional
    from torchvision import models
    from torchvision.models import vgg

    def dense(n_in: int) -> list[nn.Module]:
        return [nn.Linear(n_in, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 32)]

    def vgg16(batch_norm: bool) -> nn.Module:
        widths = [n if n == "M" else n // 8 for n in vgg.cfgs["D"]]
        network = vgg.VGG(vgg.make_layers(widths, batch_norm), num_classes=CLASSES)
        network.avgpool = nn.Identity()
        network.classifier = nn.Sequential(
            *dense(64 * 2 * 2), nn.ReLU(), nn.Dropout(), nn.Linear(32, CLASSES)
        )
        return network

    alexnet = models.alexnet(num_classes=CLASSES)
    alexnet.classifier = nn.Sequential(
        nn.Dropout(),
        *dense(256 * 6 * 6),
        nn.ReLU(),
        nn.Linear(32, CLASSES),
    )

    class Block(nn.Module):
        def __init__(self, n_in: int, n_out: int):
            super().__init__()
            self.stride = 1 if n_in == n_out else 2
            self.conv1 = nn.Conv2d(n_in, n_out, 3, self.stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(n_out)
            self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(n_out)
            self.added = (n_out - n_in) // 2

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.added, self.added))
            return torch.relu(x + y)

    class ResNet20(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            for group, n_in, n_out in ((1, 16, 16), (2, 16, 32), (3, 32, 64)):
                blocks = [Block(n_in, n_out), Block(n_out, n_out), Block(n_out, n_out)]
                setattr(self, f"layer{group}", nn.Sequential(*blocks))
            self.linear = nn.Linear(64, CLASSES)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = self.layer3(self.layer2(self.layer1(x)))
            return self.linear(x.mean((2, 3)))

    return {
        "alexnet": alexnet,
        "vgg16": vgg16(False),
        "vgg16_bn": vgg16(True),
        "googlenet": models.googlenet(num_classes=CLASSES, init_weights=False),
        "resnet50": models.resnet50(num_classes=CLASSES),
        "resnet20": ResNet20(),
    }


def main() -> None:
    """Writes shapes of the parameters, and scores of an image, by network."""
    import torch

    found = {}
    for name, network in networks().items():
        state = network.state_dict()
        shapes = {key: x.shape for key, x in state.items() if x.dtype == torch.float32}
        made = {key: torch.tensor(value) for key, value in weights(shapes).items()}
        network.load_state_dict(made, strict=False)
        size = IMAGE_SIZES[name]
        with torch.no_grad():
            scores = network.eval()(torch.tensor(image(size))[None])[0]
        words = {key: "x".join(map(str, shape)) for key, shape in shapes.items()}
        rounded = [float(f"{score:.7g}") for score in scores]
        found[name] = {"scores": rounded, "shapes": words}
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
