"""What is said about a training loop in which clipping cannot have worked, and to whom."""

from gradclip import callers
from gradclip.exceptions import MisuseWarning

PLACE = "Call it between `loss.backward()` and `optimizer.step()`."
BEFORE_BACKWARD = f"`clip()` found no gradient: it runs before `loss.backward()`. {PLACE}"
NO_GRADIENT = (
    "`clip()` found no gradient in {count} calls in a row: none of its parameters has any. Where a model got other "
    "parameters since, as by sharding or a conversion that replaces them, make the clipper anew from the model; else "
    "call it between `loss.backward()` and `optimizer.step()`."
)
NEVER_A_GRADIENT = (
    "No gradient was there in {count} clips in a row: it is set to None before the step, as by `zero_grad()` between "
    "`loss.backward()` and `optimizer.step()`, or the model has other parameters since. Put `zero_grad()` before "
    "`backward()`, or make the clipper anew from the model."
)
ONLY_ZEROS = (
    "All gradients were 0 in {count} clips in a row: they are set to 0 before the step, as by "
    "`zero_grad(set_to_none=False)` between `loss.backward()` and `optimizer.step()`, or the loss does not depend on "
    "the parameters. Put `zero_grad()` before `backward()`."
)
AFTER_STEP = f"`clip()` found the gradients that `optimizer.step()` has used already: it runs after the step. {PLACE}"
UNCLIPPED = (
    "`optimizer.step()` ran on gradients that were not clipped since the step before. Call `clip()` before every step, "
    "or `clipper.attach(optimizer)`"
)
NEVER = f"{UNCLIPPED} once."
NEVER_OF_THIS = f"{UNCLIPPED} with this optimizer too: the clipper is attached to another, such as the one it replaces."
EVERY_BATCH = (
    "`clip()` ran {count} times between two steps, while gradients were still being added up. Call it once, after the "
    "last `backward()` and right before `optimizer.step()`."
)
LOSS_SCALE = (
    "Clipping ran on gradients that are still multiplied by the loss scale. Call `scaler.unscale_(optimizer)` before "
    "`clip()`, or `clipper.attach(optimizer, scaler=scaler)` once."
)
CHANGED = (
    "The gradient of {name} changed between `clip()` and `optimizer.step()`. Do what changes it, such as a second "
    "`backward()`, a reduction or noise, before `clip()`."
)
BY_HAND_TOO = (
    "`clip()` was called by hand on gradients that an attached optimizer clips by itself. Remove the call, or do not "
    "`attach`."
)
ATTACHED_TWICE = (
    "Two clippers of the same parameters are attached to one optimizer, and both clip. Call `detach()` of one, or make "
    "one clipper of both policies: `policies.chain(...)`."
)
COPIED = (
    "This optimizer is a copy of one that a `GradClipper` is attached to, and the copy is not clipped: hooks are not "
    "copied or pickled. Call `attach(optimizer)` of a clipper of its parameters."
)
NOT_CLIPPED = (
    "`optimizer.step()` updates {count} parameters that no clipper clips: {names}. Make the clipper from all of them, "
    "for instance `GradClipper(optimizer, ...)`, and name in `ignored` those to be left alone."
)
NOT_UPDATED = (
    "{count} parameters count in the norm, but no optimizer updates them: {names}. Make the clipper from what is "
    "trained, for instance `GradClipper(optimizer, ...)`, or name them in `ignored`."
)


def warn(message: str) -> None:
    """Warn at the line of the user's that led here."""
    callers.warn(message, MisuseWarning)
