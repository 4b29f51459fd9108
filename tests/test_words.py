"""What users of other libraries pass by habit: taken where it has one meaning, else answered with what to pass."""

import contextlib
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradclip
import reference
from gradclip import GradClipper
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    FixedNorm,
    FixedValue,
    MedianClip,
    Policy,
    SpikeSkip,
    ZClip,
    by_group,
)
from processes import printed


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    net(torch.randn(16, 4)).square().mean().backward()
    return net


def groups_of(net: nn.Sequential, named: bool = False) -> torch.optim.Optimizer:
    def parameters(layer: nn.Module) -> list[Any]:
        return list(layer.named_parameters() if named else layer.parameters())

    return torch.optim.SGD([{"params": parameters(net[0])}, {"params": parameters(net[2])}], lr=0.1)


# What has one meaning.

NESTED: dict[str, tuple[Callable[[nn.Sequential], Any], list[str]]] = {
    "parameter groups": (
        lambda net: groups_of(net).param_groups,
        ["param_groups[0][0]", "param_groups[0][1]", "param_groups[1][0]", "param_groups[1][1]"],
    ),
    "named parameter groups": (
        lambda net: groups_of(net, named=True).param_groups,
        ["weight", "bias", "weight", "bias"],
    ),
    "modules": (
        lambda net: [net[0], net[2]],
        ["parameters[0].weight", "parameters[0].bias", "parameters[1].weight", "parameters[1].bias"],
    ),
    "a module list": (lambda net: (layer for layer in (net[0], net[2])), ["parameters[0].weight"]),
    "generators": (
        lambda net: [net[0].parameters(), net[2].parameters()],
        ["parameters[0][0]", "parameters[0][1]", "parameters[1][0]", "parameters[1][1]"],
    ),
    "lists": (lambda net: (list(net[0].parameters()), list(net[2].parameters())), ["parameters[0][0]"]),
    "generators of pairs": (
        lambda net: [net[0].named_parameters("up"), net[2].named_parameters("down")],
        ["up.weight", "up.bias", "down.weight", "down.bias"],
    ),
    "optimizers": (
        lambda net: [torch.optim.SGD(net[0].parameters(), 0.1), torch.optim.SGD(net[2].parameters(), 0.1)],
        ["parameters[0].param_groups[0][0]"],
    ),
    "all kinds": (
        lambda net: [net[0], ("bias", net[2].bias), net[2].weight],
        ["parameters[0].weight", "parameters[0].bias", "bias", "parameters[2]"],
    ),
    "a tensor first": (
        lambda net: [net[0].weight, net[0].bias, net[2]],
        ["parameters[0]", "parameters[1]", "parameters[2].weight", "parameters[2].bias"],
    ),
    "one twice": (lambda net: [net, net[0]], ["parameters[0].0.weight"]),
}


@pytest.mark.parametrize("name", NESTED)
def test_lists_of_what_has_parameters(name: str) -> None:
    """Each parameter once, in every function and in `GradClipper`, by names that lead to it."""
    make, names = NESTED[name]
    net = network()
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    expected = reference.norm(gradients, 2.0)
    assert gradclip.clip_grad_norm_(make(net), math.inf).item() == pytest.approx(expected)
    if name != "named parameter groups":
        assert list(gradclip.get_norms(make(net)))[: len(names)] == names
        clipper = GradClipper(make(net), FixedNorm(expected / 2))
        assert clipper.clip().total_norm == pytest.approx(expected)
        assert reference.norm(gradients, 2.0) == pytest.approx(expected / 2, rel=1e-4)
    else:
        with pytest.raises(ValueError, match="must name every parameter differently, got 'weight' twice"):
            gradclip.get_norms(make(net))
    gradclip.clip_grad_value_(make(net), 1e-3)
    assert max(x.abs().max().item() for x in gradients) <= 1.0001e-3


def test_iterators_in_a_list_that_were_walked_already() -> None:
    """As of one by itself: a warning, at the second step of a loop."""
    net = network()
    given = [net[0].parameters(), net[2].parameters()]
    assert gradclip.clip_grad_norm_(given, math.inf).item() > 0.0
    with pytest.warns(UserWarning, match=r"`parameters\[\d\]` is an empty generator, no gradient clipping") as caught:
        assert gradclip.clip_grad_norm_(given, math.inf).item() == 0.0
    assert len(caught) == 2


def test_parameter_groups_are_groups() -> None:
    """A policy by group goes by them as it does by the optimizer."""
    net = network()
    optimizer = groups_of(net)
    by_optimizer, by_list = (
        GradClipper(given, by_group([FixedNorm(0.1), FixedNorm(0.2)]), norms_every=1).clip()
        for given in (optimizer, optimizer.param_groups)
    )
    for group, bound in zip(optimizer.param_groups, (0.1, 0.2), strict=True):
        assert reference.norm([p.grad for p in group["params"]], 2.0) == pytest.approx(bound, rel=1e-4)
    assert by_list.norms().keys() == by_optimizer.norms().keys()


# What has none, and what to pass.


def test_no_bound() -> None:
    """None is off in many configurations; here it says what is."""
    net = network()
    for call in (
        lambda: gradclip.clip_grad_norm_(net, None),
        lambda: gradclip.clip_grad_value_(net, None),
        lambda: gradclip.clip_grads_with_norm_(net, None, 1.0),
        lambda: gradclip.clip_coefficient(1.0, None),
    ):
        with pytest.raises(TypeError, match=r"got None \(NoneType\). To switch clipping off, pass `math.inf`"):
            call()


@pytest.mark.parametrize("kind", [FixedNorm, FixedValue, ZClip, AutoClip])
def test_no_bound_of_a_policy(kind: type[Policy]) -> None:
    with pytest.raises(TypeError, match=r"got None \(NoneType\). To switch clipping off, pass `math.inf`"):
        kind(None)


@pytest.mark.parametrize(
    ("kind", "flag"), [(ZClip, "skip_update_on_spike"), (AutoClip, "include_current"), (SpikeSkip, "learn_skipped")]
)
def test_what_is_neither_true_nor_false(kind: Callable[..., Policy], flag: str) -> None:
    with pytest.raises(TypeError, match=rf"`{kind.__name__}\({flag}=...\)` must be True or False, got 'no'"):
        kind(1.0, **{flag: "no"})


def test_parameters_without_a_shape() -> None:
    """Those of lazy layers, before their first batch."""
    with pytest.raises(ValueError, match="must know the shapes of parameters, got a lazy one at weight. Run a batch"):
        GradClipper(nn.LazyLinear(3))


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_a_clipper_of_parameters_whose_gradients_have_no_norm() -> None:
    """Is refused as it is made, unless they are frozen, or left out."""
    pairs = [("graph", nn.Parameter(torch.eye(3).to_sparse_csr())), ("weight", nn.Parameter(torch.ones(3)))]
    words = r"must be strided or sparse COO tensors, got Parameter \(torch.sparse_csr\) at graph. Leave it out by"
    with pytest.raises(TypeError, match=words):
        GradClipper(pairs)
    GradClipper(pairs, ignored=["graph"])
    pairs[0][1].requires_grad_(False)
    GradClipper(pairs)


def test_a_bound_of_zero_compiles() -> None:
    """In one graph, without the warning."""
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    clip = torch.compile(lambda: gradclip.clip_grad_norm_([p], 0.0), fullgraph=True, backend="eager")
    assert clip().item() == 5.0
    assert p.grad.tolist() == [0.0, 0.0]


def test_layers_without_names() -> None:
    """Places are no names of layers: refused, as all would be one layer."""
    net = network()
    for given in (list(net.parameters()), torch.optim.SGD(net.parameters(), lr=0.1)):
        with pytest.raises(
            ValueError, match=r"must know the layers by the names of parameters, got '.*\[0\]', a place"
        ):
            GradClipper(given, AGC(per="layer"))
    GradClipper(net, AGC(per="layer")).clip()
    GradClipper([net[0], net[2]], AGC(per="layer")).clip()


def test_gradients_without_owners() -> None:
    """Those of `torch.autograd.grad`: the error names what does clip them, and that works."""
    net = network()
    gradients = torch.autograd.grad(net(torch.randn(16, 4)).square().mean(), list(net.parameters()))
    with pytest.raises(TypeError, match=r"`torch.autograd.grad`, multiply each by `clip_coefficient\(total_norm"):
        gradclip.clip_grad_norm_(gradients, 0.01)
    norm = gradclip.get_total_norm(gradients)
    for gradient in gradients:
        gradient.mul_(gradclip.clip_coefficient(norm, 0.01))
    assert gradclip.get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("kind", [AutoClip, MedianClip, ZClip, AdaGC, SpikeSkip])
def test_a_rule_that_learns_needs_a_ceiling(kind: type[Policy]) -> None:
    """And says why."""
    with pytest.raises(TypeError, match=f"`{kind.__name__}.max_norm=.*must be given.* learns that explosions are norm"):
        kind()


ZEROS: dict[str, Callable[[nn.Module], Any]] = {
    "clip_grad_norm_(max_norm": lambda net: gradclip.clip_grad_norm_(net, 0),
    "clip_grads_with_norm_(max_norm": lambda net: gradclip.clip_grads_with_norm_(net, torch.tensor(0.0), 1.0),
    "clip_grad_value_(clip_value": lambda net: gradclip.clip_grad_value_(net, 0.0),
    "FixedNorm(max_norm": lambda net: FixedNorm(0.0),
    "FixedValue(clip_value": lambda net: FixedValue(0),
    "ZClip(max_norm": lambda net: ZClip(0.0),
}


def test_a_line_of_an_installed_package_is_not_the_users(tmp_path: Path) -> None:
    """Whatever it is called; where all lines are of such, the innermost that is no framework's is named."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    source = "from gradclip import callers\n\ndef loop():\n    callers.warn('advice')\n\ndef main():\n    loop()\n"
    file = str(folder / "engine.py")
    scope: dict[str, Any] = {"__name__": "engine"}
    exec(compile(source, file, "exec"), scope)  # noqa: S102 -- as a module that is installed
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scope["main"]()
        thread = threading.Thread(target=scope["main"])
        thread.start()
        thread.join()
    assert [x.filename for x in caught] == [__file__, file]
    assert caught[1].lineno == 4


@pytest.mark.parametrize("name", ZEROS)
def test_a_bound_of_zero_warns_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the line that gave it; it does what it says."""
    monkeypatch.setattr(gradclip.callers, "_said", set())
    net = network()
    with pytest.warns(UserWarning, match=r"=0\)` sets every gradient to 0.*pass `math.inf`") as caught:
        [ZEROS[name](net) for _ in range(3)]
    assert len(caught) == 1
    assert f"`{name}=0)`" in str(caught[0].message)
    assert caught[0].filename == __file__
    if name.startswith("clip"):
        assert not any(p.grad.any() for p in net.parameters() if p.grad is not None)


# Tensors of other kinds.


def packed() -> Tensor:
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this torch has no dtype of four bits")
    return torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


def fake() -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(3)


ODD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "Take its parts"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "Take its parts",
    ),
    "fake": (fake, "a shape and no numbers"),
    "packed": (packed, "unpack them"),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), "Convert it to a strided or a sparse COO tensor"),
    "mkldnn": (lambda: torch.ones(3).to_mkldnn(), "Convert it to a strided or a sparse COO tensor"),
    "integers": (lambda: torch.ones(3, dtype=torch.int32), "Only these have a norm"),
}


class Owner(Tensor):
    """A parameter whose gradient may be anything."""

    held: Tensor

    @property
    def grad(self) -> Tensor:  # type: ignore[override]
        return self.held


def owner_of(gradient: Tensor) -> Tensor:
    made = torch.zeros(1, requires_grad=True).as_subclass(Owner)
    made.held = gradient
    return made


def calls_on(gradient: Tensor) -> Iterable[Callable[[], Any]]:
    owner = owner_of(gradient)
    yield lambda: gradclip.clip_grad_norm_([owner], 0.5)
    yield lambda: gradclip.clip_grad_value_([owner], 0.5)
    yield lambda: gradclip.clip_grads_with_norm_([owner], 0.5, 1.0)
    yield lambda: gradclip.get_norms([owner])
    yield lambda: GradClipper([owner], FixedNorm(0.5)).clip()
    yield lambda: gradclip.get_total_norm([gradient])


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore:.*in beta state", "ignore:.*prototype stage")
def test_gradients_that_have_no_norm(name: str) -> None:
    """Our words, which name them, and not those of torch's internals."""
    make, words = ODD[name]
    gradient = make()
    for call in calls_on(gradient):
        with pytest.raises(TypeError, match=f"must be given real or complex .*\\[0\\].*{words}"):
            call()


def test_gradients_without_numbers() -> None:
    """Those of the meta device pass through the functions, and whoever would read one says what to do."""
    owner = owner_of(torch.ones(3, device="meta"))
    assert gradclip.clip_grad_norm_([owner], 1.0).is_meta
    for call in (
        lambda: GradClipper([owner], FixedNorm(1.0)).clip(),
        lambda: GradClipper([owner], FixedNorm(1.0), nonfinite="propagate").clip().total_norm,
        lambda: GradClipper([owner], ZClip(1.0), nonfinite="propagate").clip().status,
        lambda: GradClipper([owner], SpikeSkip(1.0), nonfinite="propagate").clip(),
        lambda: gradclip.clip_grad_norm_([owner], 1.0, error_if_nonfinite=True),
        lambda: gradclip.get_total_norm([torch.ones(3, device="meta")], error_if_nonfinite=True),
    ):
        with pytest.raises(TypeError, match="on the meta device have shapes and no numbers. Materialize the model"):
            call()


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_numbers_of_eight_bits(dtype: str) -> None:
    """They are counted, scaled and limited as others are, each rounded once."""
    values = torch.tensor([3.0, -4.0, 0.5, 0.0])
    for call, expected in (
        (lambda p: gradclip.clip_grad_norm_([p], 1.0, eps=0.0), values.double() / reference.norm([values], 2.0)),
        (lambda p: gradclip.clip_grad_value_([p], 1.0), values.clamp(-1.0, 1.0)),
    ):
        gradient = values.to(getattr(torch, dtype))
        call(owner_of(gradient))
        assert gradient.float().tolist() == expected.to(getattr(torch, dtype)).float().tolist()


SHARED: dict[str, Callable[[], Tensor]] = {
    "expanded": lambda: torch.ones(1).expand(3),
    "windows": lambda: torch.ones(4).as_strided((3, 2), (1, 1)),
    "interleaved": lambda: torch.ones(9).as_strided((2, 3), (4, 2)),
}


@pytest.mark.parametrize("name", SHARED)
def test_elements_that_share_memory(name: str) -> None:
    """Scaling would reach some of them twice: refused, and only where they are to be written."""
    gradient = SHARED[name]()
    *writing, each, clipping, reading = calls_on(gradient)
    for call in (*writing, clipping):
        with pytest.raises(gradclip.OverlappingGradientError, match="several elements at one place in memory"):
            call()
    each()
    assert reading().item() == pytest.approx(math.sqrt(gradient.numel()))


def test_a_lazy_zero() -> None:
    """It has a norm, and no memory to write."""
    gradient = torch._efficientzerotensor(3)
    with pytest.raises(TypeError, match="It is a lazy zero, without memory"):
        gradclip.clip_grad_norm_([owner_of(gradient)], 1.0)
    assert gradclip.get_total_norm([gradient]).item() == 0.0


def test_strides_that_only_look_so() -> None:
    """Elements in between each other, each in a place of its own."""
    gradient = torch.zeros(8).as_strided((2, 3), (3, 2))
    gradient.fill_(2.0)
    gradclip.clip_grad_norm_([owner_of(gradient)], 1.0, eps=0.0)
    assert gradient.tolist() == [[pytest.approx(1 / math.sqrt(6))] * 3] * 2


# Threads.


def test_one_thread_at_a_time() -> None:
    """A clip while another thread clips is refused, and that one's is not disturbed; taking turns is fine."""
    net = network()
    inside, refused = threading.Event(), threading.Event()
    said: list[str] = []

    def hold(record: object) -> None:
        inside.set()
        assert refused.wait(30.0)

    clipper = GradClipper(net, FixedNorm(1e9), sinks=[hold])
    thread = threading.Thread(target=clipper.clip)
    thread.start()
    assert inside.wait(30.0)
    try:
        clipper.clip()
    except RuntimeError as error:
        said.append(str(error))
    refused.set()
    thread.join()
    assert len(said) == 1 and "must be used by one thread at a time, got a clip in 'MainThread'" in said[0]
    assert clipper.last is not None and clipper.last.step == 1
    assert clipper.clip().step == 2


def test_a_skipped_step_of_another_thread() -> None:
    """Its gradients are taken out of it for as long as it lasts, and nobody else gives them back."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    clipper = GradClipper(net, FixedNorm(1.0)).attach(optimizer)
    net[0].weight.grad.fill_(math.nan)
    inside, refused = threading.Event(), threading.Event()
    seen: list[bool] = []

    def wait(*_: object) -> None:
        inside.set()
        assert refused.wait(30.0)
        seen.append(all(p.grad is None for p in net.parameters()))

    optimizer.register_step_pre_hook(wait)
    thread = threading.Thread(target=optimizer.step)
    thread.start()
    assert inside.wait(30.0)
    with pytest.raises(RuntimeError, match="while another thread clips or steps"):
        clipper.clip()
    refused.set()
    thread.join()
    assert seen == [True]
    assert all(p.grad is not None for p in net.parameters())


def test_a_thread_that_ended_in_a_skipped_step() -> None:
    """Where something made Python stop telling who left it, the others go on, and the gradients come back."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    clipper = GradClipper(net, FixedNorm(1.0)).attach(optimizer)
    net[0].weight.grad.fill_(math.nan)

    def break_off(*_: object) -> None:
        sys.settrace(None)
        raise LookupError

    handle = optimizer.register_step_pre_hook(break_off)

    def step() -> None:
        with contextlib.suppress(LookupError):
            optimizer.step()

    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    handle.remove()
    assert clipper.clip().skipped is not None
    assert all(p.grad is not None for p in net.parameters())


def test_torchs_old_name() -> None:
    """Deprecated, as in torch, and the same."""
    net = network()
    expected = gradclip.clip_grad_norm_(net, math.inf)
    with pytest.warns(FutureWarning, match="`gradclip.clip_grad_norm` is now deprecated in favor of"):
        assert gradclip.clip_grad_norm(net, 0.25) == expected
    assert gradclip.clip_grad_norm_(net, math.inf).item() == pytest.approx(0.25, rel=1e-4)
    script = "import gradclip, torch, inspect as i; f = i.signature; g = torch.nn.utils.clip_grad_norm\n"
    check = "assert list(f(gradclip.clip_grad_norm).parameters)[:5] == list(f(g).parameters)"
    printed(script + check)
