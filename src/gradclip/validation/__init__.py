"""Checks of arguments, and the only place that words an argument error.

The template: `` `function(argument=...)` must <requirement>, got <value>. <What to do>. ``
"""

from gradclip.validation.clipper import (
    NonFiniteStep,
    check_attachable,
    check_loss,
    check_nonfinite_step,
    check_policies,
    refuse_groups,
    refuse_no_parameters,
    refuse_norm_types,
    refuse_optimizer,
    refuse_pattern,
    refuse_sparse_units,
    refuse_state,
)
from gradclip.validation.functions import (
    NonFinite,
    check_eps,
    check_max_norm,
    check_nonfinite,
    check_total_norm,
    refuse_element,
    refuse_gradient,
    refuse_gradients,
    refuse_overlap,
    refuse_parameters,
    refuse_same_name,
    warn_if_exhausted,
)
from gradclip.validation.numbers import (
    check_choice,
    check_field,
    check_norm_type,
    check_number,
    check_positive_order,
)

__all__ = [
    "NonFinite",
    "NonFiniteStep",
    "check_attachable",
    "check_choice",
    "check_eps",
    "check_field",
    "check_loss",
    "check_max_norm",
    "check_nonfinite",
    "check_nonfinite_step",
    "check_norm_type",
    "check_number",
    "check_policies",
    "check_positive_order",
    "check_total_norm",
    "refuse_element",
    "refuse_gradient",
    "refuse_gradients",
    "refuse_groups",
    "refuse_no_parameters",
    "refuse_norm_types",
    "refuse_optimizer",
    "refuse_overlap",
    "refuse_parameters",
    "refuse_pattern",
    "refuse_same_name",
    "refuse_sparse_units",
    "refuse_state",
    "warn_if_exhausted",
]
