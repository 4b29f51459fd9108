"""Clip sharpness-aware minimisation (SAM) with a scaler: only the step that updates the weights is clipped.

SAM first moves uphill, by a distance that does not depend on the size of the gradient. A base optimizer then steps with
the gradient at that point. So the move uphill needs neither clipping nor unscaling. `attach` finds the
`base_optimizer`, which the scaler steps too.

Run: python examples/sam.py

References:
    Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-aware minimization for efficiently improving generalization", 2021,
    arXiv:2010.01412.
"""

import torch
from torch import nn

import gradclip
from gradclip.policies import FixedNorm

STEPS = 100


class SAM(torch.optim.Optimizer):
    """Move uphill by a distance of `rho`, and move back."""

    def __init__(self, base_optimizer: torch.optim.Optimizer, rho: float = 0.05) -> None:
        super().__init__(base_optimizer.param_groups, {"rho": rho})
        self.base_optimizer, self.param_groups = base_optimizer, base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        """Move uphill along the gradient, scaled or not."""
        norm = gradclip.get_total_norm([p.grad for group in self.param_groups for p in group["params"]])
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["before"] = p.clone()
                p.add_(p.grad / norm, alpha=group["rho"])

    @torch.no_grad()
    def come_back(self) -> None:
        """Restore the weights from before the move uphill."""
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p].pop("before"))


def main() -> None:
    """Train, and print the norm at the uphill point, which is the norm of the step."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1)).to(device)
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5))
    scaler = torch.amp.GradScaler(device)
    clipper = gradclip.GradClipper(model, FixedNorm(1.0)).attach(optimizer, scaler=scaler)

    def backward(x: torch.Tensor) -> float:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), x.sum(dim=1, keepdim=True))
        scaler.scale(loss).backward()
        return loss.item()

    for step in range(1, STEPS + 1):
        x = torch.randn(64, 16, device=device)
        loss = backward(x)
        optimizer.first_step()
        backward(x)
        optimizer.come_back()
        scaler.step(optimizer.base_optimizer)  # unscales, clips, and steps
        scaler.update()
        if step == 1 or step % 20 == 0:
            after = clipper.last.total_norm_after
            print(f"step {step:3}  loss {loss:7.4f}  norm {clipper.last.total_norm:7.3f}  after clipping {after:.3f}")


if __name__ == "__main__":
    main()
