"""optax, for a process of its own: jax starts threads, and a process that has these must not fork, as loaders do."""

from typing import Any

import numpy as np

from docs.tables import evaluated

Arrays = list[np.ndarray]

_RUN: dict[str, Any] = {}
"""The transformation, its state, and the weights, of the row that is tried."""


def begin(code: str, weights: Arrays) -> None:
    """Take a row up."""
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    transformation = evaluated(code, optax=optax)
    _RUN.update(transformation=transformation, state=transformation.init(weights), weights=weights)


def step(gradients: Arrays) -> Arrays:
    """Return what a step makes of gradients."""
    import jax

    arrays = [jax.numpy.asarray(x) for x in gradients]
    updates, _RUN["state"] = _RUN["transformation"].update(arrays, _RUN["state"], _RUN["weights"])
    return [np.asarray(x) for x in updates]
