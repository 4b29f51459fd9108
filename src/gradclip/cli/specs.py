"""Policies in a word of the command line: `fixed:1.0`, `zclip`, `autoclip:10`, `zclip:max_norm=1.0,z=2.5`.

The names are those of `presets`. The number after the colon is what the rule is about; all else goes by the
name of the argument, or the beginning of it.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, final

from gradclip.cli import UserError
from gradclip.cli.presets import BY_NAME, PRESETS
from gradclip.policies import AdaGC, AutoClip, MedianClip, Policy, SpikeSkip, ZClip

HELP = "help"
"""In place of a policy: print the names."""

MAIN: dict[type[Policy], str] = {
    AutoClip: "percentile",
    MedianClip: "scale",
    ZClip: "z_threshold",
    AdaGC: "relative",
    SpikeSkip: "sigmas",
}
"""The argument that the number is for; elsewhere it is the first."""

BY_CLASS = {type(preset.policy(1.0)).__name__.lower(): preset.name for preset in PRESETS}
"""The same names by those of classes, which are taken too."""

OF_CONSTANTS = ("fixed", "smooth")
"""Presets that are nothing without a bound, which is 1 unless it is given; the ceiling of others is infinite."""


@final
@dataclass(frozen=True)
class Named:
    """A policy, and what the user called it."""

    name: str
    policy: Policy
    lacks_ceiling: bool
    """Whether it lets any norm through, and nobody has asked for that."""


def parse(spec: str) -> Named:
    """Return the policy that a word stands for.

    Raises:
        UserError: If it stands for none.

    Example:
        >>> from gradclip.cli.specs import parse
        >>> parse("fixed:0.8").policy
        FixedNorm(max_norm=0.8, norm_type=2.0, eps=1e-06, scope='total')
        >>> parse("autoclip:90,window=none").policy
        AutoClip(max_norm=inf, percentile=90.0, window=None, include_current=True, eps=1e-06, scope='total')
    """
    name, _, listed = spec.strip().partition(":")
    name = name.lower().replace("_", "-")
    name = BY_CLASS.get(name, name)
    if name not in BY_NAME:
        raise _refusal(spec, f"must be one of {', '.join(BY_NAME)}. --policy {HELP} explains them")
    policy: Any = BY_NAME[name].policy(1.0 if name in OF_CONSTANTS else math.inf)  # a dataclass, as all of them
    arguments: dict[str, Any] = {}
    for i, word in enumerate(listed.split(",") if listed else []):
        key, equals, value = (part.strip() for part in word.partition("="))
        known = _arguments(policy)
        if not known:
            raise _refusal(spec, f"takes no arguments. Write {name} alone")
        argument = _argument(spec, known, key) if equals else MAIN.get(type(policy), known[0])
        if argument in arguments or (not equals and i > 0):
            raise _refusal(spec, f"must give one number, and each of {', '.join(known)} once")
        arguments[argument] = _value(spec, argument, value if equals else key, getattr(policy, argument))
    try:
        policy = replace(policy, **arguments) if arguments else policy
    except (ValueError, TypeError) as error:
        raise _refusal(spec, f"does not go: {error}") from None
    is_asked_for = "max_norm" in arguments or name.endswith("-published")
    return Named(spec.strip(), policy, getattr(policy, "max_norm", 0.0) == math.inf and not is_asked_for)


def explanation() -> list[str]:
    """Return a line for each name: what the rule does, and its arguments with their values."""
    lines: list[str] = []
    width = max(map(len, BY_NAME))
    for preset in BY_NAME.values():
        lines.append(f"{preset.name:<{width}}  {preset.rule}")
        if preset in PRESETS:
            policy = parse(preset.name).policy
            main = MAIN.get(type(policy), _arguments(policy)[0])
            given = ", ".join(f"{name}={getattr(policy, name)}" for name in _arguments(policy))
            lines.append(f"{'':<{width}}    {preset.name}:{str(main).upper()}, or by name: {given}")
    return lines


def _arguments(policy: Any) -> list[str]:
    """Return the names of what a policy is made of; a chain is made of others, which go by no name."""
    return [field.name for field in fields(policy) if field.name != "links"]


def _argument(spec: str, known: list[str], key: str) -> str:
    word = key.replace("-", "_")
    found = [name for name in known if name == word] or [name for name in known if word and name.startswith(word)]
    if len(found) != 1:
        raise _refusal(spec, f"must name one of {', '.join(known)}, got {key!r}")
    return found[0]


def _value(spec: str, argument: str, text: str, given: object) -> object:
    word = text.lower()
    if isinstance(given, bool):
        if word not in {"true", "false"}:
            raise _refusal(spec, f"must give true or false for {argument}, got {text!r}")
        return word == "true"
    if word == "none":
        return None
    if isinstance(given, str):
        return word
    try:
        return float(text)
    except ValueError:
        raise _refusal(spec, f"must give a number for {argument}, got {text!r}") from None


def _refusal(spec: str, problem: str) -> UserError:
    return UserError(f"--policy {spec} {problem.rstrip('.')}.")
