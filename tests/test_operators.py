"""Under `torch.compile` the kernels run too: as operators, in one graph, with the numbers of a call outside of it."""

import math
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.library import opcheck

import gradclip
from conftest import skip_without
from gradclip.distributed import Ownership, declare, forget
from gradclip.ops import registry
from gradclip.ops.operators import NAMESPACE
from gradclip.tracing import is_captured

OPERATORS: Any = getattr(torch.ops, NAMESPACE)

pytestmark = pytest.mark.filterwarnings("default")  # compilers warn of much


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def some(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    shapes = [(3, 4), (5,), (0,), (), (6, 2)]
    tensors = [torch.randn(shape, dtype=wide).to(dtype) for shape in shapes]
    tensors[-1] = tensors[-1].t()
    return tensors


UNITS = 3 + 1 + 1 + 1 + 2

CASES: dict[str, tuple[Any, ...]] = {
    "partial": (2.0, None),
    "partials": (math.inf, None),
    "unit_partials": (2.0,),
    "norm_and_coefficient": (0.5, 1e-6),
    "count_nonfinite": (torch.tensor(math.inf, dtype=torch.float64),),
    "scale_": (torch.tensor(0.5, dtype=torch.float64),),
    "scale_units_": (torch.linspace(0.1, 1.0, UNITS, dtype=torch.float64),),
    "clamp_": (torch.tensor(0.5, dtype=torch.float64),),
    "sanitize_": (),
}


ANSWERS = ["", "reference"]
"""Whatever answers: the best there is, or plain torch."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_torch_finds_nothing_wrong(name: str, dtype: torch.dtype) -> None:
    """Schema, shapes without numbers, and what a compiler relies on; of either answer in turn."""
    with registry.forced(ANSWERS[(dtype.itemsize // 4 + list(CASES).index(name)) % 2]):
        opcheck(getattr(OPERATORS, name).default, (some(dtype), *CASES[name]))


@pytest.mark.parametrize("answer", [*ANSWERS, "triton"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_returned_is_as_a_compiler_takes_it(name: str, answer: str) -> None:
    """In order, at a multiple of 16 bytes, and in memory of its own; of kernels, also beside what they do not take."""
    if answer == "triton" and (why := registry.why_no_triton()):
        skip_without("triton", f"the kernels for GPUs do not run: {why}")
    gapped = torch.randn(6, 4)[:, ::2]
    more = (torch.linspace(0.1, 1.0, UNITS + len(gapped), dtype=torch.float64),)
    for tensors, numbers in (
        (some(), CASES[name]),
        ([*some(), gapped], more if name == "scale_units_" else CASES[name]),
    ):
        with registry.forced(answer):
            found = getattr(OPERATORS, name)(tensors, *numbers)
        returned = [found] if isinstance(found, Tensor) else found or []
        assert all(x.is_contiguous() and x.storage_offset() * x.itemsize % 16 == 0 for x in returned)
        assert len({x.untyped_storage().data_ptr() for x in returned}) == len(returned)


def test_every_operator_is_checked() -> None:
    known = (name.partition("::") for name in torch._C._dispatch_get_all_op_names())
    assert {name for namespace, _, name in known if namespace == NAMESPACE} == set(CASES)


def clip_norm(order: float, **options: Any) -> Callable[[list[Tensor]], Tensor]:
    return lambda parameters: gradclip.clip_grad_norm_(parameters, 0.5, order, **options)


FUNCTIONS: dict[str, Callable[[list[Tensor]], Any]] = {
    "norm 2": clip_norm(2.0),
    "norm inf": clip_norm(math.inf),
    "norm 1": clip_norm(1.0),
    "norm 9": clip_norm(9.0),  # in units of the extremum
    "eps 0": clip_norm(2.0, eps=0.0),
    "keep": clip_norm(2.0, nonfinite="keep"),
    "infinite bound": lambda parameters: gradclip.clip_grad_norm_(parameters, math.inf),
    "bound on the device": lambda parameters: gradclip.clip_grad_norm_(parameters, torch.tensor(0.5)),
    "value": lambda parameters: gradclip.clip_grad_value_(parameters, 0.25),
    "total norm": lambda parameters: gradclip.get_total_norm([p.grad for p in parameters]),
    "norms": lambda parameters: list(gradclip.get_norms(parameters).values()),
    "coefficient": lambda parameters: gradclip.clip_coefficient(torch.linalg.vector_norm(parameters[0].grad), 0.5),
    "known norm": lambda parameters: gradclip.clip_grads_with_norm_(parameters, 0.5, torch.tensor(3.0)),
}


def owners(dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> list[nn.Parameter]:
    torch.manual_seed(1)
    gradients = [x for dtype in dtypes for x in some(dtype)]
    parameters = [nn.Parameter(torch.zeros_like(x)) for x in gradients]
    for p, x in zip(parameters, gradients, strict=True):
        p.grad = x
    return parameters


def bits(x: Any) -> Any:
    """A result, or what it consists of, without rounding."""
    if isinstance(x, Tensor):
        return x.dtype, x.tolist()
    return [bits(each) for each in x] if isinstance(x, (list, tuple)) else x


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_compiled_clip_is_the_same(name: str) -> None:
    """In one graph: the same bits as outside, in several dtypes, again for the gradients of the next step; of both."""
    dtypes = torch.float32, torch.bfloat16
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
    for answer in ANSWERS:
        here, there = owners(dtypes), owners(dtypes)
        for _ in range(2):
            with registry.forced(answer):
                assert bits(compiled(there)) == bits(FUNCTIONS[name](here))
            assert bits([p.grad for p in there]) == bits([p.grad for p in here])
            for p, q in zip(here, there, strict=True):
                p.grad, q.grad = torch.full_like(p, 0.3), torch.full_like(q, 0.3)


def nodes(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """The operations of the graph that a compiler is handed."""
    found: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        del inputs
        found.extend(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    torch.compile(function, fullgraph=True, backend=backend)(*arguments)
    return found


def test_a_graph_holds_few_operations() -> None:
    """However many gradients: two operators, and none of plain torch beside them."""
    called = nodes(clip_norm(2.0), owners())
    assert [name for name in called if name.startswith("gradclip.")] == [
        "gradclip.norm_and_coefficient",
        "gradclip.scale_",
    ]
    assert len(called) < 8


def test_a_clip_and_a_step_compile_together() -> None:
    """By the compiler that people use, a step written by hand in one graph; torch's own step breaks it."""

    def descend(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Tensor:
        del optimizer
        norm = gradclip.clip_grad_norm_(parameters, 0.5)
        with torch.no_grad():
            for p in parameters:
                p.sub_(p.grad, alpha=0.1)
        return norm

    def step(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Tensor:
        norm = gradclip.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        return norm

    def trained(finish: Callable[..., Tensor]) -> list[list[Any]]:
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        norms = []
        for batch in range(4, 8):
            model(torch.randn(batch, 5)).square().sum().backward()
            norms.append(finish(list(model.parameters()), optimizer).item())
            optimizer.zero_grad()
        return [norms, *(p.flatten().tolist() for p in model.parameters())]

    for function, fullgraph, backend in ((descend, True, "inductor"), (step, False, "aot_eager")):
        compiled = trained(torch.compile(function, fullgraph=fullgraph, backend=backend))
        for own, expected in zip(compiled, trained(function), strict=True):
            assert own == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_sizes_may_change() -> None:
    """A graph for any size serves all that come after the first."""

    def step(p: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        p.grad = x * 2.0
        return gradclip.clip_grad_norm_([p], 1.0), p.grad

    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=graphs)
    made = set()
    for size in (3, 5, 17):
        p, x = torch.zeros(size, 4), torch.randn(size, 4)  # of a parameter, torch takes the size for a constant
        assert bits(compiled(p, x)) == bits(step(p, x))
        made.add(graphs.frame_count)
    assert len(made) == 1


def test_bounds_may_change() -> None:
    """A graph for any bound that is a tensor is made once."""
    own, other = ([nn.Parameter(torch.zeros(3, 4)) for _ in range(2)] for _ in range(2))

    def clipped(parameters: list[nn.Parameter], bound: Tensor) -> Tensor:
        norm = gradclip.clip_grad_norm_(parameters[:1], bound)
        gradclip.clip_grads_with_norm_(parameters[1:], bound, norm)
        return norm

    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(clipped, fullgraph=True, backend=graphs)
    for bound in (1.0, 0.5, 0.25, 7.0):
        for p, q in zip(own, other, strict=True):
            p.grad = torch.randn(3, 4)
            q.grad = p.grad.clone()
        norms = compiled(own, torch.tensor(bound)), clipped(other, torch.tensor(bound))
        assert bits([norms[0], *(p.grad for p in own)]) == bits([norms[1], *(q.grad for q in other)])
    assert graphs.frame_count == 1


@pytest.mark.parametrize("function", [gradclip.clip_grad_norm_, gradclip.clip_grad_value_])
def test_a_graph_outlives_imports(function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which modules there are is no part of it: the first call alone imports many, of the compiler."""
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda: function([p], 1.0), fullgraph=True, backend=graphs)
    for name in ("some", "other", "modules"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        compiled()
    assert graphs.frame_count == 1


@pytest.mark.parametrize("name", CASES)
def test_no_compiler_captures_an_operator(name: str) -> None:
    """Its own CUDA graphs leave them out: a run before a capture must ask for no memory that is kept."""
    unsafe = pytest.importorskip("torch._inductor.utils")
    if not hasattr(unsafe, "is_cudagraph_unsafe_fx_node"):
        pytest.skip("this torch has another way to leave operators out, or none")
    node = torch.fx.Graph().call_function(getattr(OPERATORS, name).default)
    assert unsafe.is_cudagraph_unsafe_fx_node(node)


def test_no_compiler_asks_whether_a_graph_is_captured() -> None:
    """To ask the device would break the graph that it makes."""

    def sent(x: Tensor) -> Tensor:
        return x + 1.0 if is_captured(torch.device("cuda", 0)) else x

    assert torch.compile(sent, fullgraph=True, backend="eager")(torch.ones(1)).item() == 1.0


def test_what_cannot_be_written_is_refused() -> None:
    """Here too, before anything is changed."""
    parameters = owners()
    parameters[0].grad = torch.ones(4).expand(3, 4)
    before = bits([p.grad for p in parameters])
    with pytest.raises(Exception, match="several elements at one"):
        torch.compile(clip_norm(2.0), fullgraph=True, backend="eager")(parameters)
    assert bits([p.grad for p in parameters]) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.3, math.inf])
def test_no_gradient_at_all(norm_type: float) -> None:
    compiled = torch.compile(clip_norm(norm_type), fullgraph=True, backend="aot_eager")
    assert compiled([nn.Parameter(torch.zeros(2))]).item() == 0.0


FORMS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda model: model,
    "parameters": nn.Module.parameters,
    "pairs": nn.Module.named_parameters,
    "a list of modules": lambda model: [model],
    "filtered": lambda model: filter(lambda p: p.requires_grad, model.parameters()),
}


@pytest.mark.parametrize("form", FORMS)
def test_parameters_in_any_form(form: str) -> None:
    """A compiler follows how they are listed, that of the oldest torch too."""
    model = nn.Linear(3, 2)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    clip = torch.compile(lambda: gradclip.clip_grad_norm_(FORMS[form](model), 2.0), fullgraph=True, backend="aot_eager")
    assert clip().item() == pytest.approx(math.sqrt(8.0))


def test_what_is_declared_of_another_model_is_none_of_it() -> None:
    """A clip of this one compiles all the same, until it is declared itself."""
    own, other = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    own.grad = torch.full((3,), 2.0)
    compiled = torch.compile(lambda: gradclip.clip_grad_norm_([own], math.inf), backend="eager", fullgraph=True)
    try:
        declare(other, Ownership(counted=False))
        assert compiled().item() == pytest.approx(12.0**0.5)
        declare(own, Ownership(counted=False))
        with pytest.raises(Exception, match=r"outside of `torch.compile`|Observed exception|re-raise"):
            compiled()
    finally:
        forget([own, other])


def test_gradients_with_a_history() -> None:
    """Those of `create_graph=True` are written like others."""
    here, there = owners(), owners()
    for p in (*here, *there):
        p.grad.requires_grad_()
    norm = gradclip.clip_grad_norm_(here, 0.5)
    assert bits(torch.compile(clip_norm(2.0), fullgraph=True, backend="aot_eager")(there)) == bits(norm)
    assert bits([p.grad for p in there]) == bits([p.grad for p in here])


@pytest.mark.parametrize(("backend", "lazy"), [("eager", False), ("eager", True), ("inductor", True)])
def test_complex_gradients_break_a_graph(backend: str, lazy: bool) -> None:
    """Lazy conjugates too, as `backward` leaves them: the numbers are right."""
    p = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    x = torch.tensor([3 + 4j, 0, 0], dtype=torch.complex64)
    p.grad = x.conj() if lazy else x
    assert torch.compile(clip_norm(2.0), backend=backend)([p]).item() == 5.0
    assert p.grad.abs().sum().item() == pytest.approx(0.5)


def test_what_has_no_norm_is_refused() -> None:
    """Whole numbers."""
    words = "re-raise" if torch.__version__ < (2, 7) else "real or complex floating-point gradients"
    with pytest.raises(Exception, match=words):
        torch.compile(lambda x: gradclip.get_total_norm([x]), fullgraph=True, backend="eager")(torch.ones(3).long())


def test_numbers_of_a_device_without_float64_are_on_the_host() -> None:
    """Also while a graph is made."""
    with FakeTensorMode():
        xs = [torch.empty(3, device="mps")]
        assert OPERATORS.partial(xs, 2.0, None).device.type == "cpu"
        total, coef, norm = OPERATORS.norm_and_coefficient(xs, 1.0, 1e-6)
        assert (total.device.type, coef.device.type, norm.device.type) == ("cpu", "cpu", "mps")
