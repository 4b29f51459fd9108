"""Clip under mixed precision: pass the scaler to `attach`, and nothing else changes.

The scaler multiplies the loss, so that small gradients survive half precision. Gradients must be divided by the same
factor before they are compared with a threshold. The clipper does this once per step. If the scaler finds an overflow,
it skips the step as usual.

Run: python examples/amp.py
"""

import torch
from torch import nn

import gradclip
from gradclip.policies import FixedNorm

STEPS = 100


def main() -> None:
    """Train, and print how many steps were clipped, and how many the scaler skipped to find its scale."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler(device)
    clipper = gradclip.GradClipper(model, FixedNorm(1.0)).attach(optimizer, scaler=scaler)

    clipped = left_out = 0
    for step in range(1, STEPS + 1):
        x = torch.randn(64, 16, device=device)
        with torch.autocast(device, dtype=torch.float16):
            loss = nn.functional.mse_loss(model(x).float(), x.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)  # unscales, clips, and steps
        scaler.update()
        if clipper.last.skipped:  # `"skipped_scaler"`: an overflow, so no step
            left_out += 1
            continue
        clipped += int(clipper.last.clipped)
        if step % 20 == 0:
            print(f"step {step:3}  loss {loss.item():7.4f}  norm {clipper.last.total_norm:7.3f}")
    print(
        f"clipped {clipped} of {STEPS - left_out} steps; {left_out} overflowed, and the scale is {scaler.get_scale():g}"
    )


if __name__ == "__main__":
    main()
