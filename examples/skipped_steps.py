"""Keep a learning-rate schedule and a moving average in step with an optimizer whose bad steps are skipped.

A batch with a NaN makes a NaN gradient. The clipper skips that step, and the run continues. Everything else that counts
steps should wait too. `clipper.last.skipped` is None if the step happened; otherwise it is the reason for the skip.

Run: python examples/skipped_steps.py
"""

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gradclip
from gradclip.policies import FixedNorm

STEPS = 60


def batches() -> list[torch.Tensor]:
    """Draw the inputs of all steps; every twentieth is damaged."""
    drawn = list(torch.randn(STEPS, 32, 8))
    for damaged in drawn[9::20]:
        damaged[3, 5] = math.nan
    return drawn


def main() -> None:
    """Train, print the skipped steps, and compare the model with its average."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    clipper = gradclip.GradClipper(model, FixedNorm(1.0)).attach(optimizer)

    def loss_of(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(net(x), x.sum(dim=1, keepdim=True))

    for step, x in enumerate(batches(), start=1):
        optimizer.zero_grad()
        loss_of(model, x).backward()
        optimizer.step()  # clips first, or does nothing
        if clipper.last.skipped is None:
            scheduler.step()
            average.update_parameters(model)
        else:
            print(f"step {step:3}  {clipper.last.skipped.value}: learning rate stays {scheduler.get_last_lr()[0]:.4f}")

    x = torch.randn(1000, 8)
    print(f"{scheduler.last_epoch} of {STEPS} steps happened, and {average.n_averaged.item()} were averaged")
    print(f"loss {loss_of(model, x).item():.4f}, of the average {loss_of(average, x).item():.4f}")


if __name__ == "__main__":
    main()
