"""The rules against packages that others wrote, step by step: `pip install --no-deps -r tests/oracles.txt`.

`GRADCLIP_REQUIRE=oracles` turns a package that is missing into a failure. Opacus' tracker of a quantile has no
counterpart here, so it is not among them.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import math
import pathlib
import random
from collections.abc import Iterable
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, Optional, Union

import pytest
import torch
from torch import Tensor
from torch.nn import ParameterList

import gradclip
from conftest import skip_without
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
    FixedNorm,
    FixedValue,
    Layout,
    Norms,
    Policy,
    SmoothNorm,
    ZClip,
    chain,
    warmup,
)
from policies.cases import series

SHAPES = ((4, 3), (7,), (2, 3, 2))


def package(name: str) -> ModuleType:
    """Import a package, or skip the test where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        skip_without("oracles", f"{name} cannot be imported: {error}")
        raise


def twins(dtype: torch.dtype = torch.float64) -> tuple[ParameterList, ParameterList]:
    """The same parameters twice: for the package and for us."""
    drawn = [torch.randn(shape, dtype=dtype) for shape in SHAPES]
    return ParameterList(x.clone() for x in drawn), ParameterList(x.clone() for x in drawn)


def give(theirs: ParameterList, ours: ParameterList, norms: list[float]) -> None:
    """Give both the same new gradients, each of the norm asked for."""
    for one, two, norm in zip(theirs, ours, norms, strict=True):
        drawn = torch.randn_like(one)
        one.grad = drawn * (norm / drawn.norm())
        two.grad = one.grad.clone()


def difference(theirs: list[Tensor], ours: ParameterList) -> float:
    """The largest relative difference of an element."""
    pairs = [(one, two.grad) for one, two in zip(theirs, ours, strict=True) if two.grad is not None]
    return max(float(((one - two) / one).abs().max()) for one, two in pairs)


def gradients(parameters: ParameterList) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


# torch itself.


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, math.inf])
def test_torch_clip_grad_norm(p: float) -> None:
    """The total norm, and that of each parameter in a loop."""
    for policy, together in ((FixedNorm(0.7, p), True), (FixedNorm(0.7, p, scope="parameter"), False)):
        theirs, ours = twins()
        give(theirs, ours, [0.4, 3.0, 0.05])
        for group in [list(theirs)] if together else [[one] for one in theirs]:
            torch.nn.utils.clip_grad_norm_(group, 0.7, p)
        gradclip.GradClipper(ours, policy).clip()
        assert difference(gradients(theirs), ours) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_torch_clip_grad_value(dtype: torch.dtype) -> None:
    """Bit for bit."""
    theirs, ours = twins(dtype)
    give(theirs, ours, [0.4, 3.0, 0.05])
    torch.nn.utils.clip_grad_value_(theirs, 0.1)
    gradclip.GradClipper(ours, FixedValue(0.1)).clip()
    assert all(torch.equal(one, two) for one, two in zip(gradients(theirs), gradients(ours), strict=True))


def test_formulas_in_torch() -> None:
    """Block RMS and the smooth coefficients, each as a line of torch."""
    formulas: dict[Policy, Any] = {
        BlockRMS(0.2): lambda x, n: x / torch.clamp(x.square().mean().sqrt() / 0.2, min=1.0),
        SmoothNorm(0.7, "rational"): lambda x, n: x * 0.7 / (n + 0.7),
        SmoothNorm(0.7, "sqrt"): lambda x, n: x / torch.sqrt(1.0 + (n / 0.7).square()),
        SmoothNorm(0.7, "tanh"): lambda x, n: x * 0.7 / n * torch.tanh(n / 0.7),
    }
    for policy, formula in formulas.items():
        theirs, ours = twins()
        give(theirs, ours, [0.4, 3.0, 0.05])
        total = torch.linalg.vector_norm(torch.cat([x.flatten() for x in gradients(theirs)]))
        gradclip.GradClipper(ours, policy).clip()
        assert difference([formula(x, total) for x in gradients(theirs)], ours) < 2e-15


# Packages.


def spiky(steps: int, level: float = 1.0) -> list[float]:
    """Norms with single spikes and a burst of ten."""
    return [level * n for n in series(steps, spread=0.3, spikes=(60, 61, 150, *range(400, 410)))]


class Compared(NamedTuple):
    """Their clipper after a run, the largest difference of an element, how many steps we clipped, what we learned."""

    oracle: Any
    worst: float
    clipped: int
    learned: dict[str, Any]


def zclip_and_ours(steps: int, theirs_given: dict[str, Any], ours_given: dict[str, Any]) -> Compared:
    """Let `zclip` and ours clip the same gradients, step by step, without a ceiling."""
    package("zclip")
    from zclip import ZClip as Theirs

    oracle, (theirs, ours) = Theirs(max_grad_norm=None, **theirs_given), twins()
    clipper = gradclip.GradClipper(ours, ZClip(math.inf, patience=math.inf, **ours_given))
    worst, clipped = 0.0, 0
    for norm in spiky(steps, level=2.0):
        give(theirs, ours, [norm, norm / 2.0, norm * 2.0])
        oracle.step(theirs)
        clipped += clipper.clip().clipped
        worst = max(worst, difference(gradients(theirs), ours))
    return Compared(oracle, worst, clipped, clipper.state_dict()["stages"][0]["state"])


def test_zclip_without_a_ceiling() -> None:
    """600 steps against `zclip`, as published: every element, and the statistics."""
    oracle, worst, clipped, learned = zclip_and_ours(600, {}, {})
    assert worst < 3e-15
    assert clipped > 20
    assert learned["mean"] == pytest.approx(oracle.mean, rel=1e-14)
    assert learned["var"] == pytest.approx(oracle.var, rel=1e-13)


ZCLIP_WAYS: dict[str, dict[str, Any]] = {
    "percentile": {"mode": "percentile", "z_thresh": 1.5},
    "the mean": {"clip_option": "mean"},
    "a factor": {"clip_factor": 0.6},
    "spikes teach nothing": {"skip_update_on_spike": True},
    "percentile, spikes teach nothing": {"mode": "percentile", "skip_update_on_spike": True},
    "another warm-up": {"alpha": 0.9, "warmup_steps": 10, "eps": 1e-4},
}


@pytest.mark.parametrize("name", ZCLIP_WAYS)
def test_every_way_of_zclip(name: str) -> None:
    """300 steps against `zclip` in each of its modes: every element, and the statistics."""
    given = ZCLIP_WAYS[name]
    renamed = {"z_thresh": "z_threshold", "warmup_steps": "warmup"}
    ours_given = {renamed.get(key, key): value for key, value in given.items()}
    oracle, worst, clipped, learned = zclip_and_ours(300, given, ours_given)
    eps = given.get("eps", 1e-6)  # theirs divides by the norm plus 1e-6 whatever its eps is
    assert worst < (3e-15 if eps == 1e-6 else 1e-4)
    assert clipped > 5
    assert learned["mean"] == pytest.approx(oracle.mean, rel=1e-13)
    assert learned["var"] == pytest.approx(oracle.var, rel=1e-12)


def test_zclip_with_its_ceiling() -> None:
    """With the default `max_grad_norm=1.0` it learns what it clips further: a second rule after the first.

    Dividing twice by a norm plus eps differs from dividing once, by eps.
    """
    package("zclip")
    from zclip import ZClip as Theirs

    oracle, (theirs, ours) = Theirs(), twins()
    clipper = gradclip.GradClipper(ours, chain(ZClip(math.inf, patience=math.inf), FixedNorm(1.0, eps=0.0)))
    worst, clipped = 0.0, 0
    for norm in spiky(600, level=0.5):
        give(theirs, ours, [norm, norm / 2.0, norm])
        oracle.step(theirs)
        clipped += clipper.clip().clipped
        worst = max(worst, difference(gradients(theirs), ours))
    assert worst < 1e-6
    assert 100 < clipped < 500


@pytest.mark.parametrize(("level", "tolerance"), [(0.2, 1e-13), (1.0, 3e-7)])
def test_adagc(level: float, tolerance: float) -> None:
    """300 steps against `pytorch_optimizer`, the last step of whose warm-up is one before the number given.

    Where it clips in the warm-up, it does so by a total norm in float32.
    """
    theirs, ours = twins()
    optimizer = package("pytorch_optimizer").AdaGC(theirs, betas=(0.0, 0.999), weight_decay=0.0)  # keeps the gradient
    published = chain(warmup(99, FixedNorm(1.0, eps=1e-8)), AdaGC(math.inf, warmup=99, patience=math.inf))
    clipper = gradclip.GradClipper(ours, published)
    chance = random.Random(0)
    worst, clipped = 0.0, [0, 0]
    for step in range(300):
        spike = 100.0 if step in {99, 100, 200, 201} else 1.0
        give(theirs, ours, [level * spike * math.exp(chance.gauss(0.0, 0.3)) for _ in SHAPES])
        optimizer.step()
        clipped[step >= 99] += clipper.clip().clipped
        worst = max(worst, difference([optimizer.state[one]["exp_avg"] for one in theirs], ours))
    assert worst < tolerance
    assert clipped[1] > 150 and (clipped[0] == 99) == (level == 1.0)


def test_quantile_clip() -> None:
    """120 steps against `autoclip`, whose history is a window for each parameter, without the norm it judges."""
    theirs, ours = twins()
    oracle = package("autoclip.torch").QuantileClip(theirs, quantile=0.8, history_length=40)
    rule = AutoClip(math.inf, percentile=80.0, window=40, include_current=False, scope="parameter")
    clipper = gradclip.GradClipper(ours, rule)
    chance = random.Random(0)
    worst, clipped = 0.0, 0
    for _ in range(120):
        give(theirs, ours, [math.exp(chance.gauss(0.0, 0.5)) for _ in SHAPES])
        oracle.step()
        clipped += clipper.clip().clipped
        worst = max(worst, difference(gradients(theirs), ours))
    assert worst < 1e-15
    assert clipped > 20


def test_autoclip_by_numpy() -> None:
    """300 steps against the percentile of numpy over the whole history."""
    numpy = package("numpy")
    theirs, ours = twins()
    clipper = gradclip.GradClipper(ours, AutoClip(math.inf, window=None))
    history: list[float] = []
    for step, norm in enumerate(spiky(300)):
        give(theirs, ours, [norm, norm / 2.0, norm * 2.0])
        history.append(math.sqrt(math.fsum(float(x.square().sum()) for x in gradients(theirs))))
        bound = float(numpy.percentile(history, 10.0))
        result = clipper.clip()
        assert result.threshold == pytest.approx(bound, rel=1e-15)
        if step:  # the first norm equals its bound, to the rounding of the sum
            expected = bound / (history[-1] + 1e-6) if history[-1] > bound else 1.0
            assert result.coefficient == pytest.approx(expected, rel=1e-15)


def test_agc_of_timm() -> None:
    """Element by element in float32, where timm rounds norms, bound, quotient and product, and we round once."""
    agc = _file("timm", "timm/utils/agc.py")
    worst, changed = 0, 0
    for _ in range(20):
        theirs, ours = twins(torch.float32)
        give(theirs, ours, [0.05, 0.001, 0.5])
        before = [x.clone() for x in gradients(theirs)]
        agc.adaptive_clip_grad(list(theirs), clip_factor=0.01)
        gradclip.GradClipper(ours, AGC(0.01)).clip()
        for one, two, old in zip(gradients(theirs), gradients(ours), before, strict=True):
            worst = max(worst, int((one.view(torch.int32) - two.view(torch.int32)).abs().max()))
            changed += int((one != old).sum())
    assert worst <= 3  # units in the last place
    assert 0 < changed < 20 * 31


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("eps", [1e-3, 0.5])
def test_agc_of_timm_in_other_norms(norm_type: float, eps: float) -> None:
    """In float64, where both round next to nothing."""
    agc = _file("timm", "timm/utils/agc.py")
    theirs, ours = twins()
    give(theirs, ours, [0.05, 0.001, 0.5])
    agc.adaptive_clip_grad(list(theirs), clip_factor=0.02, eps=eps, norm_type=norm_type)
    gradclip.GradClipper(ours, AGC(0.02, eps=eps, norm_type=norm_type)).clip()
    assert difference(gradients(theirs), ours) < 1e-14


@pytest.mark.parametrize("axis", [0, 1, (0, 1), -1])
def test_agc_of_optax(axis: int | tuple[int, ...]) -> None:
    """With its axis, of a weight of three dimensions, on numpy in place of jax, for whose arrays it is written."""
    numpy = package("numpy")
    theirs = _functions("optax", "optax/_src/numerics.py", ["abs_sq"], np=numpy, jnp=_Numpy(), jax=_Jax())
    norms = _functions(
        "optax",
        "optax/transforms/_clipping.py",
        ["unitwise_norm", "unitwise_clip"],
        jnp=_Numpy(),
        jax=_Jax(),
        numerics=theirs,
        utils=SimpleNamespace(check_shapes_equal=lambda a, b: None),
        Optional=Optional,
        Union=Union,
    )
    weight, gradient = (torch.randn(4, 3, 5, dtype=torch.float64) for _ in range(2))
    g, w = (norms.unitwise_norm(x.numpy(), axis=axis) for x in (gradient, weight))
    expected = torch.from_numpy(norms.unitwise_clip(g, 0.2 * numpy.maximum(w, 1e-3), gradient.numpy()))
    ours = ParameterList([weight])
    ours[0].grad = gradient
    gradclip.GradClipper(ours, AGC(0.2, axis=axis)).clip()
    assert difference([expected], ours) < 1e-14


def test_agc_of_composer() -> None:
    """Without a floor, so that what was initialised to 0 stays there, and a gradient of 0 too."""
    names = ["_apply_agc", "_get_clipped_gradient_coeff", "_unitwise_norm"]
    path = "composer/algorithms/gradient_clipping/gradient_clipping.py"
    oracle = _functions("mosaicml", path, names, torch=torch, Union=Union, Iterable=Iterable)
    theirs, ours = twins()
    for parameters in (theirs, ours):
        with torch.no_grad():
            parameters[0][1].zero_()
    give(theirs, ours, [0.5, 0.001, 0.05])
    for parameters in (theirs, ours):
        parameters[0].grad[2].zero_()
    oracle._apply_agc(theirs, 0.01)
    gradclip.GradClipper(ours, AGC(0.01, eps=0.0)).clip()
    for one, two in zip(gradients(theirs), gradients(ours), strict=True):
        assert torch.allclose(one, two, rtol=1e-14, atol=0.0)
    assert gradients(ours)[0][1].eq(0.0).all()


def smartclip(**arguments: Any) -> tuple[ModuleType, Any, ParameterList, ParameterList]:
    """The package, one of its clippers, and twins as a module."""
    package("smartclip")
    torch_backend = importlib.import_module("smartclip.backends.torch")
    kind = arguments.pop("kind")
    made = getattr(importlib.import_module("smartclip.core"), kind)(warmup_steps=0, min_history=0, **arguments)
    return (torch_backend, made, *twins())


def test_agc_of_smartclip() -> None:
    """It bounds whole parameters, and leaves those of one dimension alone; its eps is added, 1e-8."""
    backend, oracle, theirs, ours = smartclip(kind="AGC", clipping=0.01)
    give(theirs, ours, [0.5, 3.0, 0.05])
    backend.apply(theirs, oracle)
    gradclip.GradClipper(ours, AGC(0.01, per="parameter", min_ndim=2, eps=0.0)).clip()
    assert difference(gradients(theirs), ours) < 1e-6
    assert gradients(ours)[1].norm().item() == pytest.approx(3.0)


def test_moving_percentile_of_smartclip() -> None:
    """A bound at a percentile of a window: `mode="percentile", history="window"`; its eps is 1e-8."""
    arguments = {"mode": "percentile", "history": "window", "percentile": 80.0, "window_size": 20}
    backend, oracle, theirs, ours = smartclip(kind="AutoClip", **arguments)
    clipper = gradclip.GradClipper(ours, AutoClip(math.inf, percentile=80.0, window=20, eps=1e-8))
    worst, clipped = 0.0, 0
    for norm in spiky(100):
        give(theirs, ours, [norm, norm / 2.0, norm])
        backend.apply(theirs, oracle)
        clipped += clipper.clip().clipped
        worst = max(worst, difference(gradients(theirs), ours))
    assert worst < 1e-7
    assert clipped > 10


def test_z_score_of_smartclip() -> None:
    """The mean plus deviations, as that of `ZClip(mode="percentile")`; its statistics hold the norm that is judged."""
    package("smartclip")
    core = importlib.import_module("smartclip.core")
    oracle = core.ZScoreClip(zmax=2.0, ema_decay=0.9, warmup_steps=0, min_history=0)
    norms = spiky(60)
    for norm in norms:
        oracle.observe(norm)
    mean, sd = oracle.stats()
    layout = Layout(("a",), (1,), (1,))
    policy = ZClip(math.inf, mode="percentile", z_threshold=2.0, alpha=0.9)
    state = policy.init(layout)._replace(mean=mean, var=sd * sd, count=60.0)
    decision, _ = policy.decide(Norms(layout, 2.0, 100.0), state)
    assert decision.threshold == pytest.approx(oracle.threshold(), rel=1e-12)


class _Numpy:
    """numpy as far as optax asks jax.numpy for it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(package("numpy"), name)


class _Jax:
    """The names of jax that the annotations of optax use."""

    typing = SimpleNamespace(ArrayLike=Any)
    Array = Any


def _functions(distribution: str, path: str, names: list[str], **namespace: Any) -> Any:
    """Take some functions out of a file of an installed distribution, whose other imports they do not need."""
    try:
        place = importlib.metadata.distribution(distribution).locate_file(path)
    except importlib.metadata.PackageNotFoundError as error:
        skip_without("oracles", f"{distribution} is missing: {error}")
        raise
    tree = ast.parse(pathlib.Path(str(place)).read_text("utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    assert len(tree.body) == len(names)
    exec(compile(tree, str(place), "exec"), namespace)  # noqa: S102 -- the code of a package that is installed
    return SimpleNamespace(**{name: namespace[name] for name in names})


def _file(distribution: str, path: str) -> Any:
    """Load one file of an installed distribution, whose package needs more than that file does."""
    try:
        place = importlib.metadata.distribution(distribution).locate_file(path)
    except importlib.metadata.PackageNotFoundError as error:
        skip_without("oracles", f"{distribution} is missing: {error}")
        raise
    spec = importlib.util.spec_from_file_location("oracle", str(place))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
