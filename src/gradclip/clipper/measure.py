"""Measure what a policy asks for, and apply what it decides: each gradient is read once and written once at most."""

import math
from functools import partial

import torch
from torch import Tensor

from gradclip.distributed.reduction import Reduction
from gradclip.gradients import GradientSet, gather
from gradclip.gradients.gradient_set import norms_of, unit_partials_of
from gradclip.numbers import Scalar
from gradclip.policies.measured import Layout, Norms, Scope
from gradclip.policies.policy import Decision
from gradclip.units import Units
from gradclip.validation import refuse_sparse_units, refuse_units


def measure(
    gradients: GradientSet,
    parameters: list[Tensor],
    layout: Layout,
    order: float,
    scope: Scope,
    units: Units,
    loss: Scalar | None,
) -> Norms:
    """Return the norms of gradients, down to a scope."""
    if gradients.reduction is not None:
        return _measure_all_ranks(gradients, gradients.reduction, layout, order, scope, units)
    if scope == "total":
        return Norms(layout, order, gradients.total_norm(order), loss=loss)
    places = gradients.positions()
    positions = _positions(gradients, layout)
    whole = Norms(layout, order, math.nan, present=positions, loss=loss)
    if scope == "parameter":
        each = _spread(gradients.norms_each(order), positions, len(layout.names))
        return whole.with_each(each)
    sparse = next((i for i, x in enumerate(gradients.gradients) if x.is_sparse), None)
    if sparse is not None:
        refuse_sparse_units(gradients.names()[sparse])
    rows = _unit_positions(layout, positions)
    owners = parameters if places is None else [parameters[i] for i in places]
    each = _spread(gradients.unit_norms(units), rows, len(layout.owners))
    weights = _spread(gather("GradClipper.clip", owners).unit_norms(units), rows, len(layout.owners))
    return whole._replace(weights=weights).with_units(each)


def _measure_all_ranks(
    gradients: GradientSet, reduction: Reduction, layout: Layout, order: float, scope: Scope, units: Units
) -> Norms:
    """Return norms that are the same on all ranks, of which this one has but a part."""
    if scope == "total":
        total = gradients.total_norm(order)  # which makes the loss known
        return Norms(layout, order, total, loss=reduction.loss)
    complete = reduction.plan.complete
    if scope == "parameter":
        norms, present, total = reduction.norms_each(partial(norms_of, order), order, layout.device)
    else:
        plain = next((place for place, share in enumerate(reduction.plan.shares) if share.in_pieces), None)
        if plain is not None:
            refuse_units(layout.names[plain])
        norms, present, total = reduction.unit_norms(
            partial(unit_partials_of, units), units, layout.columns, layout.device
        )
    positions = None if bool(present.all()) else present.nonzero().flatten()
    whole = Norms(layout, order, math.nan, present=positions, loss=reduction.loss, complete=complete)
    if scope == "parameter":
        return whole.with_each(torch.where(present, norms[0], math.nan))._replace(total=total)
    each, weights = (torch.where(present[layout.owners], x, math.nan) for x in norms)
    return whole._replace(weights=weights).with_units(each)._replace(total=total)


def apply_(gradients: GradientSet, decision: Decision, norms: Norms, units: Units) -> None:
    """Do to gradients what was decided about them."""
    if not gradients.gradients:
        return
    coef, positions = decision.coef, _positions(gradients, norms.layout)
    if decision.scope == "total" or not isinstance(coef, Tensor):
        gradients.scale_(coef)
    elif decision.scope == "parameter":
        gradients.scale_each_(coef if positions is None else coef[positions])
    elif gradients.reduction is not None:
        columns, held = norms.layout.columns, gradients.reduction.held
        own = [coef[columns[place][held.rows(place, units)]] for place in held.places]
        gradients.scale_units_(torch.cat(own), units)
    else:
        rows = _unit_positions(norms.layout, positions)
        gradients.scale_units_(coef if rows is None else coef[rows], units)
    if isinstance(decision.clamp, Tensor):
        bounds = decision.clamp if positions is None else decision.clamp[positions]
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


def _positions(gradients: GradientSet, layout: Layout) -> Tensor | None:
    places = gradients.positions()
    return None if places is None else torch.tensor(places, dtype=torch.int64, device=layout.device)


def _spread(values: Tensor, positions: Tensor | None, size: int) -> Tensor:
    if positions is None:
        return values
    whole = torch.full((size,), math.nan, dtype=torch.float64, device=values.device)
    whole[positions] = values
    return whole


def _unit_positions(layout: Layout, positions: Tensor | None) -> Tensor | None:
    return None if positions is None else torch.isin(layout.owners, positions).nonzero().flatten()
