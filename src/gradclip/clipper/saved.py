"""What a clipper saves, and what it takes back: all of it, or nothing where any of it is damaged."""

from collections.abc import Mapping
from typing import Any

from gradclip.clipper.pipeline import Pipeline
from gradclip.policies.holds import COUNT
from gradclip.policies.state import refuse_number, refuse_state

ENTRIES = ("step", "skips", "parameters", "stages")


def saved(step: int, skips: int, names: list[str], pipeline: Pipeline) -> dict[str, Any]:
    """Return the state of a clipper: how many clips, how many skips in a row, its parameters, what it has learned."""
    return {"step": step, "skips": skips, "parameters": list(names), "stages": pipeline.state_dict()}


def loaded(state_dict: object, names: list[str], pipeline: Pipeline) -> tuple[int, int]:
    """Have a pipeline go on from a saved state, and return the counts of clips and of skips in a row.

    Raises:
        ValueError: If it comes from another policy or other parameters, or is damaged. Nothing is changed then.
    """
    if not isinstance(state_dict, Mapping) or not set(ENTRIES) <= set(state_dict):
        refuse_state("the top", ENTRIES, state_dict)
    step, skips, parameters, stages = (state_dict[entry] for entry in ENTRIES)
    for name, count in (("step", step), ("skips", skips)):
        if not COUNT.holds(count):
            refuse_number(name, str(COUNT), count)
    if not isinstance(parameters, (list, tuple)):
        refuse_state("parameters", names, parameters)
    given = dict.fromkeys(map(str, parameters))
    if pipeline.has_names and set(given) != set(names):
        refuse_state("parameters", names, given)
    pipeline.load_state_dict(stages)
    return int(step), int(skips)
