"""Clip accumulated gradients once, before the step, and not after each micro-batch.

The threshold limits the gradient that the optimizer uses, which is the sum over all micro-batches. An attached clipper
always clips at the right place: when `optimizer.step()` is called.

Run: python examples/accumulation.py
"""

import torch
from torch import nn

import gradclip
from gradclip.policies import FixedNorm

STEPS, MICRO_BATCHES = 50, 4


def main() -> None:
    """Train, and print how many steps were clipped."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = gradclip.GradClipper(model, FixedNorm(1.0)).attach(optimizer)

    clipped, total = 0, 0.0
    for i in range(1, STEPS * MICRO_BATCHES + 1):
        x = torch.randn(16, 8)
        loss = nn.functional.mse_loss(model(x), x.sum(dim=1, keepdim=True)) / MICRO_BATCHES
        loss.backward()
        total += loss.item()
        if i % MICRO_BATCHES == 0:
            optimizer.step()  # clips first
            optimizer.zero_grad()
            clipped += int(clipper.last.clipped)
            if clipper.last.step % 10 == 0:
                print(f"step {clipper.last.step:3}  loss {total:7.4f}  norm {clipper.last.total_norm:7.3f}")
            total = 0.0
    print(f"clipped {clipped} of {clipper.last.step} steps, of {MICRO_BATCHES} micro-batches each")


if __name__ == "__main__":
    main()
