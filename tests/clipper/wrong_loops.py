"""Training loops in which clipping cannot have worked, and the words that each deserves."""

import copy
import gc
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.amp import GradScaler

from clipper.loops import STEPS, Loop, adam, data, setup, sgd
from clipper.training import Batch, batches, loss_of, network
from gradclip import GradClipper
from gradclip.policies import ZClip


def after_the_step(*, set_to_none: bool = True) -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad(set_to_none=set_to_none)
        loss_of(net, batch).backward()
        optimizer.step()
        clipper.clip()


def after_the_step_zeroed_late() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        loss_of(net, batch).backward()
        optimizer.step()
        clipper.clip()
        optimizer.zero_grad()


def between_the_steps_of_two_optimizers() -> None:
    net, _, clipper = setup()
    body, head = sgd(net[0]), sgd(net[2])
    for batch in data():
        net.zero_grad()
        loss_of(net, batch).backward()
        body.step()
        clipper.clip()
        head.step()


def before_backward(*, set_to_none: bool = True) -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = loss_of(net, batch)
        clipper.clip()
        loss.backward()
        optimizer.step()


def before_backward_zeroed_late() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        clipper.clip()
        loss_of(net, batch).backward()
        optimizer.step()
        optimizer.zero_grad()


def a_new_head(*order: str) -> None:
    """On a frozen backbone of many layers, which the optimizer has too."""
    net = nn.Sequential(*(nn.Linear(3, 3).requires_grad_(False) for _ in range(20)), nn.Linear(3, 1))
    optimizer, clipper = sgd(net), GradClipper(net)
    for batch in data():
        optimizer.zero_grad()
        acts = {"backward": loss_of(net, batch).backward, "clip": clipper.clip, "step": optimizer.step}
        for act in order:
            acts[act]()


def stale_gradients() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        clipper.clip()
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()


def stale_gradients_from_the_first_step_on() -> None:
    net, optimizer, clipper = setup()
    loss_of(net, batches(1)[0]).backward()
    for batch in data():
        optimizer.step()
        clipper.clip()
        optimizer.zero_grad()
        loss_of(net, batch).backward()


def scaled(make: Callable[..., Any] = sgd, *, attached: bool = False, scale: float = 2.0**16, **arguments: Any) -> None:
    net, optimizer, clipper = setup(make, **arguments)
    scaler = GradScaler("cpu", init_scale=scale)
    if attached:
        clipper.attach(optimizer)
    for batch in data():
        optimizer.zero_grad()
        scaler.scale(loss_of(net, batch)).backward()
        clipper.clip()
        scaler.step(optimizer)
        scaler.update()


def two_optimizers_attached_without_their_scaler() -> None:
    net, _, clipper = setup()
    body, head, scaler = sgd(net[0]), sgd(net[2]), GradScaler("cpu")
    clipper.attach(body).attach(head)
    for batch in data():
        net.zero_grad()
        scaler.scale(loss_of(net, batch)).backward()
        scaler.step(body)
        scaler.step(head)
        scaler.update()


def every_micro_batch(*, set_to_none: bool = True) -> None:
    net, optimizer, clipper = setup()
    for i, batch in enumerate(data(4 * STEPS)):
        loss_of(net, batch).backward()
        clipper.clip()
        if i % 4 == 3:
            optimizer.step()
            optimizer.zero_grad(set_to_none=set_to_none)


def parameters_that_nobody_clips(*, attached: bool, closure: bool = False) -> None:
    net, optimizer, _ = setup()
    clipper = GradClipper(net[0])
    if attached:
        clipper.attach(optimizer)
    for batch in data():

        def step(batch: Batch = batch) -> Any:
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            if not attached:
                clipper.clip()
            return loss

        if closure:
            optimizer.step(step)
        else:
            step()
            optimizer.step()


def parameters_that_thaw_late() -> None:
    net = network()
    net[2].requires_grad_(False)
    optimizer, clipper = sgd(net), GradClipper(net[0])
    clipper.attach(optimizer)
    for step, batch in enumerate(data(401)):
        net[2].requires_grad_(step > 150)
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()


def parameters_that_are_replaced_late() -> None:
    net, optimizer, clipper = setup()
    clipper.attach(optimizer)
    for step, batch in enumerate(data(401)):
        if step == 150:
            net[2] = nn.Linear(4, 1)
            optimizer.param_groups[0]["params"][2:] = net[2].parameters()
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()


def parameters_that_nobody_updates() -> None:
    net = network()
    optimizer, clipper = sgd(net[2]), GradClipper(net)
    clipper.attach(optimizer)
    for batch in batches(1) * 120:
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()


def changed_in_between(change: Callable[[nn.Module, Batch], object]) -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        clipper.clip()
        change(net, batch)
        optimizer.step()


def add_noise(net: nn.Module, batch: Batch) -> None:
    for p in net.parameters():
        assert p.grad is not None
        p.grad.add_(0.1)


def replace_one(net: nn.Module, batch: Batch) -> None:
    *_, p = net.parameters()
    assert p.grad is not None
    p.grad = p.grad * 2.0


def anew(net: nn.Module, batch: Batch) -> None:
    net.zero_grad()
    loss_of(net, batch).backward()


def attached_and_by_hand(*, after: bool = False, policy: Any = None) -> None:
    net = network()
    optimizer = adam(net)
    clipper = GradClipper(net, policy).attach(optimizer)
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        if after:
            optimizer.step()
        clipper.clip()
        if not after:
            optimizer.step()


def never() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()
    assert clipper.last is None


def every_second_step() -> None:
    net, optimizer, clipper = setup()
    for i, batch in enumerate(data()):
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        if i % 2:
            clipper.clip()
        optimizer.step()


def attached_to_one_of_two() -> None:
    net, _, clipper = setup()
    body, head = sgd(net[0]), sgd(net[2])
    clipper.attach(head)
    for batch in data():
        net.zero_grad()
        loss_of(net, batch).backward()
        body.step()
        head.step()


def a_copy_that_is_not_attached() -> None:
    net, optimizer, clipper = setup()
    clipper.attach(optimizer)
    net, optimizer, clipper = copy.deepcopy((net, optimizer, clipper))
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()
    assert clipper.last is None


def attached_to_one_that_was_replaced(*, one_more: bool = False) -> None:
    """As a framework does that makes its optimizers anew for another training."""
    net, first, clipper = setup()
    clipper.attach(first)
    if one_more:
        other = sgd(net)
        clipper.attach(other).detach(other)
    for optimizer in (first, sgd(net)):
        for batch in data():
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            optimizer.step()


def attached_to_one_that_is_gone() -> None:
    """As where the next optimizer takes its name."""
    net, optimizer, clipper = setup()
    clipper.attach(optimizer)
    for _ in range(2):
        for batch in data():
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            optimizer.step()
        optimizer = sgd(net)
        gc.collect()


def zeroed_before_the_step(*, attach: bool, rare: int = 0) -> None:
    """Without a gradient but once in so many steps, if ever."""
    net, optimizer, clipper = setup()
    if attach:
        clipper.attach(optimizer)
    for step, batch in enumerate(data(220), 1):
        loss_of(net, batch).backward()
        if not rare or step % rare:
            optimizer.zero_grad(set_to_none=False)
        if not attach:
            clipper.clip()
        optimizer.step()
        optimizer.zero_grad()


AFTER_STEP = (
    r"found the gradients that `optimizer\.step\(\)` has used already: it runs after the step\. Call it between"
)
BEFORE_BACKWARD = r"found no gradient: it runs before `loss\.backward\(\)`\. Call it between"
LOSS_SCALE = (
    r"still multiplied by the loss scale\. Call `scaler\.unscale_\(optimizer\)` before `clip\(\)`, or `clipper\.a"
)
EVERY_BATCH = (
    r"`clip\(\)` ran 4 times between two steps, while gradients were still being added up\. Call it once, after"
)
NOT_CLIPPED = r"updates 2 parameters that no clipper clips: param_groups\[0\]\[2\], param_groups\[0\]\[3\]\. Make the"
NOT_UPDATED = r"^2 parameters count in the norm, but no optimizer updates them: 0\.weight, 0\.bias\. Make the clipper"
CHANGED = (
    r"The gradient of 0\.weight changed between `clip\(\)` and `optimizer\.step\(\)`\. Do what changes it, .* before"
)
BY_HAND = (
    r"called by hand on gradients that an attached optimizer clips by itself\. Remove the call, or do not `attach`\."
)
NEVER = r"ran on gradients that were not clipped since the step before\. Call `clip\(\)` before every step, or `clipper"
ONLY_ZEROS = r"^All gradients were 0 in 100 clips in a row: they are set to 0 before the step, .*Put `zero_grad\(\)`"
NEVER_OF_THIS = NEVER + r"\.attach\(optimizer\)` with this optimizer too: the clipper is attached to another, such as"

WRONG: dict[str, tuple[Loop, str]] = {
    "after the step": (after_the_step, AFTER_STEP),
    "after the step, zeroed in place": (lambda: after_the_step(set_to_none=False), AFTER_STEP),
    "after the step, zeroed late": (after_the_step_zeroed_late, AFTER_STEP),
    "between the steps of two optimizers": (between_the_steps_of_two_optimizers, AFTER_STEP),
    "after the step, of a new head": (lambda: a_new_head("backward", "step", "clip"), AFTER_STEP),
    "before backward, of a new head": (lambda: a_new_head("clip", "backward", "step"), BEFORE_BACKWARD),
    "never, of a new head": (lambda: a_new_head("backward", "step"), NEVER),
    "stale gradients": (stale_gradients, BEFORE_BACKWARD),
    "stale gradients from the first step on": (stale_gradients_from_the_first_step_on, AFTER_STEP),
    "before backward": (before_backward, BEFORE_BACKWARD),
    "before backward, zeroed in place": (lambda: before_backward(set_to_none=False), BEFORE_BACKWARD),
    "before backward, zeroed late": (before_backward_zeroed_late, BEFORE_BACKWARD),
    "scaled": (scaled, LOSS_SCALE),
    "scaled, by less than 1": (lambda: scaled(scale=0.25), LOSS_SCALE),
    "scaled, AdamW": (lambda: scaled(adam), LOSS_SCALE),
    "scaled, fused": (lambda: scaled(adam, fused=True), LOSS_SCALE),
    "scaled, attached too": (lambda: scaled(attached=True), BY_HAND),
    "scaled, fused, attached too": (lambda: scaled(adam, fused=True, attached=True), BY_HAND),
    "scaled, two attached without the scaler": (two_optimizers_attached_without_their_scaler, LOSS_SCALE),
    "every micro-batch": (every_micro_batch, EVERY_BATCH),
    "every micro-batch, zeroed in place": (lambda: every_micro_batch(set_to_none=False), EVERY_BATCH),
    "nobody clips some": (lambda: parameters_that_nobody_clips(attached=False), NOT_CLIPPED),
    "nobody clips some, attached": (lambda: parameters_that_nobody_clips(attached=True), NOT_CLIPPED),
    "nobody clips some, closure": (lambda: parameters_that_nobody_clips(attached=True, closure=True), NOT_CLIPPED),
    "nobody clips what thaws late": (parameters_that_thaw_late, NOT_CLIPPED),
    "nobody clips what is replaced late": (parameters_that_are_replaced_late, NOT_CLIPPED),
    "nobody updates some": (parameters_that_nobody_updates, NOT_UPDATED),
    "noise": (lambda: changed_in_between(add_noise), CHANGED),
    "replaced": (lambda: changed_in_between(replace_one), CHANGED.replace("0\\.weight", "2\\.bias")),
    "a second backward": (lambda: changed_in_between(lambda net, batch: loss_of(net, batch).backward()), CHANGED),
    "a backward anew": (lambda: changed_in_between(anew), CHANGED),
    "attached and by hand": (attached_and_by_hand, BY_HAND),
    "attached and by hand, adaptive": (lambda: attached_and_by_hand(policy=ZClip(1.0)), BY_HAND),
    "attached and by hand after it": (lambda: attached_and_by_hand(after=True), BY_HAND),
    "zeroed before the step": (lambda: zeroed_before_the_step(attach=False), ONLY_ZEROS),
    "zeroed before the step, attached": (lambda: zeroed_before_the_step(attach=True), ONLY_ZEROS),
    "never": (never, NEVER),
    "every second step": (every_second_step, NEVER),
    "attached to one of two": (attached_to_one_of_two, NEVER),
    "a copy that is not attached": (a_copy_that_is_not_attached, NEVER),
    "attached to one that was replaced": (attached_to_one_that_was_replaced, NEVER_OF_THIS),
    "attached to one that is gone": (attached_to_one_that_is_gone, NEVER_OF_THIS),
    "attached to one still, and it was replaced": (
        lambda: attached_to_one_that_was_replaced(one_more=True),
        NEVER_OF_THIS,
    ),
}
