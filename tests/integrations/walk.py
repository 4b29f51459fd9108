"""A script that knows nothing of gradclip: PPO of stable-baselines3 on a walk to the middle of a line."""

import json
import sys
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger


class Walk(gymnasium.Env):
    """Go left or right, and be paid for being near the middle."""

    observation_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.time = float(self.np_random.uniform(-1.0, 1.0)), 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += 0.1 if action == 1 else -0.1
        self.time += 1
        return self._seen(), -10.0 * abs(self.place), False, self.time >= 8, {}

    def _seen(self) -> Any:
        return np.array([self.place], np.float32)


def agent() -> PPO:
    """Return one that is not trained, with the bound of 0.5 that PPO has there."""
    torch.manual_seed(0)
    made = PPO("MlpPolicy", Walk(), n_steps=64, batch_size=32, n_epochs=4, seed=0, device="cpu")
    made.set_logger(Logger(None, []))  # its own leaves a folder behind
    return made


if __name__ == "__main__":
    parameters = agent().learn(128).policy.parameters()
    sys.stdout.write(json.dumps([x for p in parameters for x in p.detach().flatten().tolist()]))
