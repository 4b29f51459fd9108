"""The task of the examples in this folder, and the single-process run that they compare their norms with.

The model predicts the next character of Python's own documentation from the characters before it. It works like the
word model of Bengio et al.: it embeds the characters, and a few layers read the embeddings side by side.

References:
    Bengio, Ducharme, Vincent and Jauvin, "A neural probabilistic language model", JMLR 3, 2003.
"""

from pydoc_data.topics import topics
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

STEPS = 10
"""Training steps of each example."""

BATCH = 120
"""Characters that all ranks together predict in a step. Each rank must have the same number of them."""

CONTEXT = 16
"""The number of preceding characters that the model sees."""

WIDTH = 64
"""Units of each layer."""

LR = 0.1
"""The learning rate of SGD."""

MAX_NORM = 0.5
"""The threshold. The norms of these examples are larger, so every step is clipped."""

MOST_APART = 3e-6
"""The largest relative difference between two norms that rounding explains. Any parameter counted twice makes 1e-5."""

TEXT = "\n\n".join(topics.values()).encode()


@final
class Block(nn.Module):
    """Two layers whose output is added to their input."""

    def __init__(self) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, of the same shape (character, unit)."""
        return x + self.down(self.up(self.norm(x)).relu())


def build() -> nn.Sequential:
    """Return the model, with the same weights on every rank: a reader of the context, four blocks, and a head."""
    torch.manual_seed(0)
    reader = nn.Sequential(nn.Embedding(256, 32), nn.Flatten(), nn.Linear(32 * CONTEXT, WIDTH))
    return nn.Sequential(reader, Block(), Block(), Block(), Block(), nn.Linear(WIDTH, 256))


def batch(step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
    """Return one of several equal parts of the batch of a step: contexts, and the characters that follow them.

    Returns:
        Bytes as int64, of shape (character, CONTEXT) and (character,).
    """
    starts = torch.randint(len(TEXT) - CONTEXT, (BATCH,), generator=torch.Generator().manual_seed(step))
    windows = torch.tensor([list(TEXT[start : start + CONTEXT + 1]) for start in starts.tolist()])
    own = windows.view(parts, -1, CONTEXT + 1)[part]
    return own[:, :-1], own[:, -1]


def norms_of_one_process() -> list[float]:
    """Train on whole batches, clip with torch, and return the norm of each step before clipping."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    norms = []
    for step in range(STEPS):
        inputs, targets = batch(step)
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM).item())
        optimizer.step()
    return norms


def compare(norms: list[float]) -> None:
    """Print the norms of the steps beside those of a single process. Exit with 1 if they differ."""
    print("step  norm here  norm of one process  relative difference")
    far_apart = 0
    for step, (norm, alone) in enumerate(zip(norms, norms_of_one_process(), strict=True), start=1):
        difference = abs(norm - alone) / alone
        far_apart += not difference <= MOST_APART  # true for NaN too
        print(f"{step:4}  {norm:9.6f}  {alone:19.6f}  {difference:19.1e}")
    if far_apart:
        raise SystemExit(f"{far_apart} of {STEPS} norms are further apart than rounding explains ({MOST_APART:g})")
