"""Measure what a policy asks for, and apply what it decides: each gradient is read once and written once at most."""

import math

import torch
from torch import Tensor

from gradclip.gradients import GradientSet, gather
from gradclip.norms import Scalar
from gradclip.policies.measured import Layout, Norms, Scope
from gradclip.policies.policy import Decision
from gradclip.validation import refuse_sparse_units


def measure(
    gradients: GradientSet,
    parameters: list[Tensor],
    layout: Layout,
    order: float,
    scope: Scope,
    loss: Scalar | None,
) -> Norms:
    """Return the norms of gradients, down to a scope."""
    if scope == "total":
        return Norms(layout, order, gradients.total_norm(order), loss=loss)
    places = gradients.positions()
    positions = None if places is None else torch.tensor(places, dtype=torch.int64, device=layout.device)
    whole = Norms(layout, order, math.nan, present=positions, loss=loss)
    if scope == "parameter":
        each = _spread(gradients.norms_each(order), positions, len(layout.names))
        return whole.with_each(each)
    sparse = next((i for i, x in enumerate(gradients.gradients) if x.is_sparse), None)
    if sparse is not None:
        refuse_sparse_units(gradients.names()[sparse])
    rows = _unit_positions(layout, positions)
    owners = parameters if places is None else [parameters[i] for i in places]
    units = _spread(gradients.unit_norms(), rows, len(layout.owners))
    weights = _spread(gather("GradClipper.clip", owners).unit_norms(), rows, len(layout.owners))
    return whole._replace(weights=weights).with_units(units)


def apply_(gradients: GradientSet, decision: Decision, norms: Norms) -> None:
    """Do to gradients what was decided about them."""
    coef, present = decision.coef, norms.present
    if decision.scope == "total" or not isinstance(coef, Tensor):
        gradients.scale_(coef)
    elif decision.scope == "parameter":
        gradients.scale_each_(coef if present is None else coef[present])
    else:
        rows = _unit_positions(norms.layout, present)
        gradients.scale_units_(coef if rows is None else coef[rows])
    if isinstance(decision.clamp, Tensor):
        bounds = decision.clamp if present is None else decision.clamp[present]
        gradients.clamp_each_(bounds.tolist())
    elif decision.clamp is not None:
        gradients.clamp_(decision.clamp)


def spread_over(decision: Decision, scaled: Tensor, norms: Norms) -> Decision:
    """Restrict a decision to the parameters whose flag, of shape (P,), is 1; others are only counted."""
    flags, scope = scaled > 0.0, decision.scope
    coef = torch.as_tensor(decision.coef, dtype=torch.float64, device=scaled.device)
    if decision.clamp is not None:
        clamp = torch.as_tensor(decision.clamp, dtype=torch.float64, device=scaled.device)
        decision = decision._replace(clamp=torch.where(flags, clamp, math.inf))
    if scope == "unit":
        return decision._replace(coef=torch.where(flags[norms.layout.owners], coef, 1.0))
    return decision._replace(coef=torch.where(flags, coef, 1.0), scope="parameter")


def _spread(values: Tensor, positions: Tensor | None, size: int) -> Tensor:
    if positions is None:
        return values
    whole = torch.full((size,), math.nan, dtype=torch.float64, device=values.device)
    whole[positions] = values
    return whole


def _unit_positions(layout: Layout, positions: Tensor | None) -> Tensor | None:
    return None if positions is None else torch.isin(layout.owners, positions).nonzero().flatten()
