"""Times a train step of the same CapsNet in PyTorch, to compare ours with.

python -m experiments.benchmark_training \
    --config=experiments/configs/mnist.py:authors_code \
    --against='python experiments/torch_capsnet_step.py --batch_size=128'

The network and its loss are those of mnist.py:authors_code: 8,215,728 parameters, three
routing iterations with the gradient through all of them, margin and reconstruction
loss, Adam; in float32, compiled by ``torch.compile``. Images are random. Our step also
shifts them and computes the accuracy; this one does not. In turn with the step it times
the two convolutions alone, with their gradients and Adam.

Prints a line of JSON with the medians of both in seconds. It needs PyTorch
(``pip install -e '.[torch]'``) and nothing of this project, so that the memory of its
process is PyTorch's.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import one_hot, relu
except ImportError as error:
    sys.exit(f"error: {error}; this needs PyTorch: pip install -e '.[torch]'")

SIDE, CLASSES = 28, 10
TYPES, P, Q = 32, 8, 16  # Primary capsules' types; dimensions of both kinds of capsule.
I = TYPES * 6 * 6
ITERATIONS = 3
RECONSTRUCTION_WEIGHT = 0.0005


def squash(s: Tensor) -> Tensor:
    """Shrinks vectors [..., Q] to lengths below one."""
    squared = s.square().sum(-1, keepdim=True)
    return s * squared / (1 + squared) * torch.rsqrt(squared + 1e-9)


class CapsNet(nn.Module):
    """CapsNet for 28x28x1 images, with the released code's initial values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 256, 9)
        self.primary = nn.Conv2d(256, TYPES * P, 9, stride=2, bias=False)
        self.primary_bias = nn.Parameter(torch.full((TYPES * P, 1, 1), 0.1))
        self.weights = nn.Parameter(torch.empty(I, P, CLASSES * Q))
        self.bias = nn.Parameter(torch.full((CLASSES, Q), 0.1))
        self.decoder = nn.Sequential(
            *(nn.Linear(CLASSES * Q, 512), nn.ReLU()),
            *(nn.Linear(512, 1024), nn.ReLU()),
            *(nn.Linear(1024, SIDE * SIDE), nn.Sigmoid()),
        )
        for kernel in (self.conv1.weight, self.primary.weight):
            nn.init.trunc_normal_(kernel, std=0.05)
        nn.init.trunc_normal_(self.weights, std=0.1)

    def features(self, images: Tensor) -> Tensor:
        """Both convolutions of images [B, 1, H, W]: [B, TYPES * P, 6, 6]."""
        return self.primary(relu(self.conv1(images)))

    def forward(self, images: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Lengths [B, J] and reconstructions [B, H * W] of images [B, 1, H, W].

        The decoder sees the capsules of the classes that are present, [B, J].
        """
        B = len(images)
        total = self.features(images) / TYPES + self.primary_bias
        u = squash(total.view(B, TYPES, P, -1).transpose(2, 3).reshape(B, I, P))
        votes = torch.bmm(u.transpose(0, 1), self.weights)
        poses = self.route(votes.view(I, B, CLASSES, Q).permute(1, 2, 0, 3))
        seen = (poses * present[:, :, None]).flatten(1)
        return poses.norm(dim=-1), self.decoder(seen)

    def route(self, votes: Tensor) -> Tensor:
        """Routing by agreement of votes [B, J, I, Q]; returns poses [B, J, Q]."""
        logits = votes.new_zeros(votes.shape[:3])
        poses = self.poses(votes, logits)
        for _ in range(ITERATIONS - 1):
            logits = logits + (votes @ poses[..., None]).squeeze(-1)
            poses = self.poses(votes, logits)
        return poses

    def poses(self, votes: Tensor, logits: Tensor) -> Tensor:
        """Poses [B, J, Q] from votes [B, J, I, Q] and logits [B, J, I]."""
        c = logits.softmax(dim=1)
        return squash((c[:, :, None] @ votes).squeeze(2) + self.bias)


def loss(
    lengths: Tensor, reconstructions: Tensor, images: Tensor, present: Tensor
) -> Tensor:
    """Half the margin loss's mean over classes, and the weighted squared error."""
    margin = present * relu(0.9 - lengths).square()
    margin = margin + 0.5 * (1 - present) * relu(lengths - 0.1).square()
    error = (reconstructions - images.flatten(1)).square().sum(1)
    return (margin.mean(1) / 2 + RECONSTRUCTION_WEIGHT * error).mean()


def main() -> None:
    """Times both programs in turn and prints the line."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--batch_size", type=int, default=128, help="Images of a step.")
    flags.add_argument("--repeats", type=int, default=10, help="Timed calls of each.")
    flags.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Whether torch.compile compiles both.",
    )
    given = flags.parse_args()
    torch.manual_seed(0)
    images = torch.rand(given.batch_size, 1, SIDE, SIDE)
    labels = torch.randint(CLASSES, (given.batch_size,))
    present = one_hot(labels, CLASSES).to(images.dtype)

    def whole(model: CapsNet) -> Tensor:
        lengths, reconstructions = model(images, present)
        return loss(lengths, reconstructions, images, present)

    def convolutions(model: CapsNet) -> Tensor:
        return model.features(images).square().mean()

    steps = {
        "full_step_s": make_step(whole, compiled=given.compile),
        "conv_only_s": make_step(convolutions, compiled=given.compile),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(given.repeats + 1):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            if repeat:  # The first call compiles.
                seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    print(json.dumps({"batch": given.batch_size, **medians}))


def make_step(
    objective: Callable[[CapsNet], Tensor], *, compiled: bool
) -> Callable[[], None]:
    """A function that takes a train step of a new model by Adam."""
    model = CapsNet()
    value = torch.compile(objective) if compiled else objective
    # Parameters without a gradient are left alone.
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        value(model).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
