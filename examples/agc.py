"""Adaptive gradient clipping (AGC), as in timm: `--clip-mode agc --clip-grad 0.1`.

timm calls `adaptive_clip_grad(model_parameters(model, exclude_head=True), 0.1)` before each step. In gradclip, AGC is a
policy with the same norms per unit, `clip_factor`, `eps` and `norm_type`. The differences are:

- The head is left out by name. timm leaves out the last two parameters.
- A unit within its threshold is not written, and a unit above it is rounded once. timm writes all units, and rounds the
  norm, the threshold and their quotient in the dtype of the gradient.
- A NaN or infinite gradient skips the step. With timm, it reaches the weights.
- Gradients are clipped right before the optimizer uses them, so once per step, whatever the loop does.

Run: python examples/agc.py

References:
    Brock, De, Smith and Simonyan, "High-performance large-scale image recognition without normalization", 2021,
    arXiv:2102.06171.
"""

import math

import torch
from torch import nn

import gradclip
from gradclip.policies import AGC, FixedNorm, by_name

STEPS, CLIP_FACTOR = 100, 0.1


class ConvNet(nn.Module):
    """Two convolutions without normalisation, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(16 * 4 * 4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, of shape (image, class)."""
        return self.head(self.body(images))


def stripes(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noisy images, each with a bright row (class 0) or column (class 1) at a random place."""
    classes, places = torch.randint(2, (images,)), torch.randint(8, (images,))
    rows = nn.functional.one_hot(places, 8)[:, None, :, None].expand(-1, 1, 8, 8).float()
    bright = torch.where(classes[:, None, None, None] == 0, rows, rows.transpose(2, 3))
    return 2.0 * bright + 0.5 * torch.randn(images, 1, 8, 8), classes


def main() -> None:
    """Train, and print the norm before and after clipping, and the parameter with the largest share of it."""
    torch.manual_seed(0)
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    policy = by_name({"head.*": FixedNorm(math.inf)}, default=AGC(CLIP_FACTOR))
    clipper = gradclip.GradClipper(model, policy, norms_every=1).attach(optimizer)
    for step in range(1, STEPS + 1):
        images, classes = stripes(64)
        loss = nn.functional.cross_entropy(model(images), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # clips first
        if step == 1 or step % 20 == 0:
            (worst, share), last = clipper.last.worst(1)[0], clipper.last
            norms = f"norm {last.total_norm:.4f}, after {last.total_norm_after:.4f}"
            print(f"step {step:3}  loss {loss.item():.4f}  {last.status.value}: {norms}; {share:.0%} in {worst}")


if __name__ == "__main__":
    main()
