"""Clip proximal policy optimisation (PPO), whose implementations all clip the norm at 0.5.

The policy and the value function are two heads of one network. They share an optimizer, so they share one norm. Every
minibatch is a step, with one clip.

Run: python examples/ppo.py

References:
    Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal policy optimization algorithms", 2017, arXiv:1707.06347.
"""

import torch
from torch import nn
from torch.distributions import Categorical

import gradclip
from gradclip.policies import FixedNorm

ROUNDS, EPOCHS, MINIBATCHES = 20, 4, 4
TIMES, WALKERS = 16, 64
GAMMA = 0.9


class Agent(nn.Module):
    """Return the probabilities of three moves, and the value of a place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 64), nn.Tanh())
        self.policy, self.value = nn.Linear(64, 3), nn.Linear(64, 1)

    def forward(self, place: torch.Tensor) -> tuple[Categorical, torch.Tensor]:
        """Return both, for places of shape (..., 1)."""
        hidden = self.body(place)
        return Categorical(logits=self.policy(hidden)), self.value(hidden).squeeze(-1)


@torch.no_grad()
def walk(agent: Agent) -> tuple[torch.Tensor, ...]:
    """Let walkers go left, stay or go right on a line. Their reward is higher near its middle."""
    place, seen = torch.empty(WALKERS, 1).uniform_(-1.0, 1.0), []
    for _ in range(TIMES):
        choice, value = agent(place)
        move = choice.sample()
        after = place + 0.1 * (move.unsqueeze(-1) - 1.0)
        seen.append((place, move, choice.log_prob(move), value, -after.abs().squeeze(-1)))
        place = after
    places, moves, log_probs, values, rewards = (torch.stack(x) for x in zip(*seen, strict=True))
    returns, following = torch.empty_like(rewards), agent(place)[1]
    for time in reversed(range(TIMES)):
        returns[time] = following = rewards[time] + GAMMA * following
    return places, moves, log_probs, values, returns, rewards


def main() -> None:
    """Train, and print the mean reward, the largest norm and the clipped steps of every fifth round."""
    torch.manual_seed(0)
    agent = Agent()
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    clipper = gradclip.GradClipper(agent, FixedNorm(0.5)).attach(optimizer)

    for round_ in range(1, ROUNDS + 1):
        *kept, rewards = walk(agent)
        places, moves, log_probs, values, returns = (x.flatten(0, 1) for x in kept)
        advantages = returns - values
        advantages = (advantages - advantages.mean()) / advantages.std()
        norms = []
        for part in (part for _ in range(EPOCHS) for part in torch.randperm(len(places)).chunk(MINIBATCHES)):
            choice, value = agent(places[part])
            ratio = (choice.log_prob(moves[part]) - log_probs[part]).exp()
            gain = torch.min(ratio * advantages[part], ratio.clamp(0.8, 1.2) * advantages[part])
            loss = (0.5 * (value - returns[part]).square() - gain - 0.01 * choice.entropy()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()  # clips first
            norms.append(clipper.last.total_norm)
        if round_ == 1 or round_ % 5 == 0:
            clipped = sum(norm > clipper.last.threshold for norm in norms)
            print(f"round {round_:2}  reward {rewards.mean():6.3f}  largest norm {max(norms):6.3f}", end="  ")
            print(f"clipped {clipped} of {len(norms)} steps")


if __name__ == "__main__":
    main()
