"""Clip two networks that train against each other: each optimizer has its own clipper.

The generator's loss leaves gradients in the critic too. One clipper for both networks would count these gradients, and
would scale the generator by a norm that is not its own.

Run: python examples/gan.py
"""

import torch
from torch import nn
from torch.nn.functional import softplus

import gradclip
from gradclip.policies import FixedNorm

STEPS = 600
MEAN, DEVIATION = 3.0, 0.5


def mlp() -> nn.Sequential:
    """Return a small network from one number to one number."""
    return nn.Sequential(nn.Linear(1, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))


def main() -> None:
    """Train a generator of normally distributed numbers, and print the mean and deviation of its output."""
    torch.manual_seed(0)
    generator, critic = mlp(), mlp()
    to_generate = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    to_judge = torch.optim.Adam(critic.parameters(), lr=1e-2, betas=(0.5, 0.9))
    of_generator = gradclip.GradClipper(generator, FixedNorm(0.5)).attach(to_generate)
    of_critic = gradclip.GradClipper(critic, FixedNorm(0.5)).attach(to_judge)

    clipped_generator = clipped_critic = 0
    for step in range(1, STEPS + 1):
        real = MEAN + DEVIATION * torch.randn(128, 1)
        fake = generator(torch.randn(128, 1))

        to_judge.zero_grad()  # also removes what the generator's loss has left
        (softplus(critic(fake.detach())) + softplus(-critic(real))).mean().backward()
        to_judge.step()
        clipped_critic += int(of_critic.last.clipped)

        to_generate.zero_grad()
        softplus(-critic(fake)).mean().backward()
        to_generate.step()
        clipped_generator += int(of_generator.last.clipped)
        if step % 100 == 0:
            norms = f"generator {of_generator.last.total_norm:6.3f}  critic {of_critic.last.total_norm:6.3f}"
            print(f"step {step:3}  norms: {norms}  mean of what is generated {fake.mean().item():6.3f}")

    numbers = generator(torch.randn(2000, 1))
    print(f"clipped {clipped_generator} steps of the generator and {clipped_critic} of the critic, of {STEPS} each")
    print(f"generated numbers: mean {numbers.mean().item():.2f}, deviation {numbers.std().item():.2f}")


if __name__ == "__main__":
    main()
