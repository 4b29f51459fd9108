"""Clip in a plain training loop: one line between `backward()` and `step()`.

A recurrent network learns to add up a sequence. The first gradients are much larger than the later ones.

Run: python examples/plain_loop.py
"""

import torch
from torch import nn

import gradclip

STEPS, MAX_NORM = 300, 1.0


class Adder(nn.Module):
    """Read sequences of shape (time, sequence, 1), and return the sum of each."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sums, of shape (sequence, 1)."""
        states, _ = self.gru(x)
        return self.head(states[-1])


def main() -> None:
    """Train, and print the norm before clipping every 50 steps."""
    torch.manual_seed(0)
    model = Adder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    clipped = 0
    for step in range(1, STEPS + 1):
        x = torch.rand(10, 32, 1)
        loss = nn.functional.mse_loss(model(x), x.sum(dim=0))
        optimizer.zero_grad()
        loss.backward()
        norm = gradclip.clip_grad_norm_(model.parameters(), MAX_NORM)  # the norm before clipping
        optimizer.step()
        clipped += int(norm > MAX_NORM)
        if step == 1 or step % 50 == 0:
            print(f"step {step:3}  loss {loss.item():7.4f}  norm {norm.item():7.3f}")
    print(f"clipped {clipped} of {STEPS} steps to norm {MAX_NORM:g}")


if __name__ == "__main__":
    main()
