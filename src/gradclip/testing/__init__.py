"""Helpers for your own tests: prove that a training loop clips, and run code on several ranks.

>>> import torch, gradclip
>>> from gradclip.testing import assert_clipped, capture_records
>>> model = torch.nn.Linear(2, 1)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> clipper = gradclip.GradClipper(model, gradclip.policies.FixedNorm(0.5)).attach(optimizer)
>>> with assert_clipped(optimizer, max_norm=0.5), capture_records() as records:
...     for _ in range(3):  # your training loop
...         optimizer.zero_grad()
...         model(torch.ones(4, 2)).square().sum().backward()
...         optimizer.step()
>>> [record.step for record in records]
[1, 2, 3]
"""

from gradclip.testing.bound import assert_clipped
from gradclip.testing.capture import capture_records
from gradclip.testing.ranks import RankError, RankPool
from gradclip.testing.replicas import assert_same_gradients

__all__ = ["RankError", "RankPool", "assert_clipped", "assert_same_gradients", "capture_records"]
