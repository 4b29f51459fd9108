"""What goes in and what comes out: inputs, layouts, devices, names."""

import math
import warnings
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

import gradclip
import reference
from conftest import skip_without


def parameter(gradient: Tensor | None, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    shape = () if gradient is None else gradient.shape
    p = nn.Parameter(torch.zeros(shape, dtype=dtype if gradient is None else gradient.dtype))
    p.grad = gradient
    return p


def model() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for i, p in enumerate(net.parameters()):
        p.grad = torch.full_like(p, float(i + 1))
    return net  # 4 * 1 + 2 * 4 + 2 * 9 + 1 * 16 = 46


FORMS: dict[str, Callable[[nn.Module], object]] = {
    "module": lambda net: net,
    "generator": lambda net: net.parameters(),
    "list": lambda net: list(net.parameters()),
    "tuple": lambda net: tuple(net.parameters()),
    "named": lambda net: net.named_parameters(),
    "named list": lambda net: list(net.named_parameters()),
    "dict values": lambda net: dict(net.named_parameters()).values(),
    "dict items": lambda net: dict(net.named_parameters()).items(),
    "filter": lambda net: filter(lambda p: p.requires_grad, net.parameters()),
    "map": lambda net: map(torch.Tensor.requires_grad_, net.parameters()),
    "optimizer": lambda net: torch.optim.SGD([{"params": [p]} for p in net.parameters()], lr=1.0),
    "parameter list": lambda net: nn.ParameterList(net.parameters()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input_is_the_same(form: str) -> None:
    """A module, an optimizer, any iterable of tensors or named pairs: all name the same gradients."""
    net = model()
    norm = gradclip.clip_grad_norm_(FORMS[form](net), 1.0)
    assert norm.item() == pytest.approx(math.sqrt(46))
    assert reference.norm([p.grad for p in net.parameters()], 2.0) == pytest.approx(1.0, rel=1e-5)


def test_a_single_tensor() -> None:
    """Torch takes a tensor for a list of one."""
    p = parameter(torch.tensor([3.0, 4.0]))
    assert gradclip.clip_grad_norm_(p, 1.0).item() == 5
    assert gradclip.get_total_norm(p.grad).item() == pytest.approx(1)


def test_parameters_without_gradient_are_skipped() -> None:
    """Frozen or unused parameters count for nothing."""
    parameters = [parameter(None), parameter(torch.tensor([3.0, 4.0])), parameter(None)]
    assert gradclip.clip_grad_norm_(parameters, 1.0).item() == 5
    assert gradclip.clip_grad_norm_([parameter(None)], 1.0).tolist() == 0.0


def test_no_parameters_at_all() -> None:
    """Nothing has norm 0, for every order."""
    for p in (0.0, 2.0, math.inf, -math.inf, -1.0):
        norm = gradclip.clip_grad_norm_([], 1.0, p)
        assert (norm.item(), norm.dtype, norm.shape) == (0.0, torch.float32, ())


def test_repeated_parameters_count_once() -> None:
    """A tied weight listed twice is counted and scaled once; torch counts and scales it twice."""
    p, q = parameter(torch.tensor([3.0])), parameter(torch.tensor([4.0]))
    assert gradclip.clip_grad_norm_([p, q, p, p], 1.0, eps=0.0).item() == 5
    assert [p.grad.item(), q.grad.item()] == pytest.approx([0.6, 0.8])
    gradclip.clip_grads_with_norm_([p, p], 0.5, 1.0, eps=0.0)
    assert p.grad.item() == pytest.approx(0.3)
    assert list(gradclip.get_norms([("a", p), ("b", q), ("c", p)])) == ["a", "b"]


@pytest.mark.parametrize("coalesced", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_sparse_gradients(coalesced: bool, dtype: torch.dtype) -> None:
    """An entry listed twice is its sum: 1 + 2 and 4, of norm 5."""
    indices = torch.tensor([[0, 0, 2]])
    x = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0, 4.0], dtype=dtype), (4,), check_invariants=True)
    x = x.coalesce() if coalesced else x
    p = parameter(None, dtype)
    p.data = torch.zeros(4, dtype=dtype)
    p.grad = x
    assert gradclip.get_norms([("e", p)])["e"].item() == 5
    assert gradclip.clip_grad_norm_([p], 5.0, eps=0.0).item() == 5
    gradclip.clip_grad_value_([p], math.inf)
    assert p.grad._nnz() == (2 if coalesced else 3)  # untouched
    assert gradclip.clip_grad_norm_([p], 1.0, eps=0.0).item() == 5
    assert p.grad.to_dense().tolist() == pytest.approx([0.6, 0, 0.8, 0])
    gradclip.clip_grad_value_([p], 0.7)
    assert p.grad.is_sparse
    assert p.grad.to_dense().tolist() == pytest.approx([0.6, 0, 0.7, 0])


def test_sparse_gradient_of_an_embedding() -> None:
    """What a sparse embedding makes: uncoalesced, with repeated rows."""
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1, 1, 4])).pow(2).sum().backward()
    dense = embedding.weight.grad.to_dense()
    assert gradclip.clip_grad_norm_(embedding, 0.1, eps=0.0).item() == pytest.approx(dense.norm().item())
    assert torch.allclose(embedding.weight.grad.to_dense(), dense * (0.1 / dense.norm()))


def test_sparse_sanitize() -> None:
    """A NaN among uncoalesced entries is zeroed with the sum it belongs to."""
    x = torch.sparse_coo_tensor(torch.tensor([[0, 0, 2]]), [1.0, math.nan, 4.0], (4,), check_invariants=True)
    p = parameter(None)
    p.data = torch.zeros(4)
    p.grad = x
    assert gradclip.clip_grad_norm_([p], 1.0, eps=0.0, nonfinite="sanitize").item() == 4
    assert p.grad.to_dense().tolist() == [0, 0, 1, 0]


def test_complex_gradients_count_by_modulus() -> None:
    """|3 + 4i| = 5 in every norm; clipping by value limits real and imaginary part."""
    for p in (1.0, 2.0, 3.0, math.inf, -math.inf):
        q = parameter(torch.tensor([3 + 4j]))
        assert gradclip.clip_grad_norm_([q], 1.0, p, eps=0.0).item() == pytest.approx(5)
        assert q.grad.item() == pytest.approx(0.6 + 0.8j)
    q = parameter(torch.tensor([3 - 0.5j]))
    gradclip.clip_grad_value_([q], 1.0)
    assert q.grad.item() == 1 - 0.5j


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x[1:, 3:7],
        lambda x: x.view(4, 5, 2).permute(2, 0, 1),
        lambda x: x[2, 5],
        lambda x: x[:0],
    ],
    ids=["transposed", "strided", "sliced", "permuted", "zero-dim", "empty"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.filterwarnings("ignore:.*sets every gradient to 0")
def test_views_are_clipped_and_their_surroundings_are_not(view: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """A gradient may be any view of memory that it shares with others."""
    base = torch.randn(4, 10, dtype=torch.complex64 if dtype.is_complex else torch.float32).to(dtype)
    expected = base.clone()
    view(expected).mul_(0.5)
    p = parameter(None)
    p = nn.Parameter(torch.zeros_like(view(base)))
    p.grad = view(base)
    norm = reference.norm([p.grad], 2.0)
    assert gradclip.clip_grad_norm_([p], norm / 2, eps=0.0).item() == pytest.approx(norm)
    assert torch.allclose(base, expected, rtol=1e-6)
    gradclip.clip_grad_value_([p], 0.1)
    view(expected).copy_(p.grad)
    assert torch.equal(base, expected)
    assert p.grad.numel() == 0 or torch.view_as_real(p.grad.to(torch.complex128)).abs().max() <= 0.1001


def test_expanded_gradient_is_refused_before_anything_is_touched() -> None:
    """One place in memory cannot hold several results."""
    first, second = parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.zeros(2, 3))
    second.grad = torch.ones(2, 1).expand(2, 3)
    for call in (
        lambda: gradclip.clip_grad_norm_(iter([first, second]), 1.0),
        lambda: gradclip.clip_grad_value_([first, second], 1.0),
        lambda: gradclip.clip_grads_with_norm_([first, second], 1.0, 5.0),
    ):
        with pytest.raises(gradclip.OverlappingGradientError, match=r"at parameters\[1\].*clone"):
            call()
    assert first.grad.tolist() == [3, 4]
    assert gradclip.get_total_norm([second.grad]).item() == pytest.approx(math.sqrt(6))


def test_expanded_gradients_may_be_measured() -> None:
    """Reading needs no place of its own for every element; nor does writing no element."""
    p = nn.Parameter(torch.zeros(2, 3))
    p.grad = torch.ones(2, 1).expand(2, 3)
    assert gradclip.get_norms([p])["parameters[0]"].item() == pytest.approx(math.sqrt(6))
    empty = nn.Parameter(torch.zeros(5, 0))
    empty.grad = torch.empty(1, 0).expand(5, 0)
    assert gradclip.clip_grad_norm_([empty, parameter(torch.ones(4, 4)[:, ::2])], 1.0).item() == pytest.approx(8**0.5)


def test_expanded_sparse_values_are_refused_before_anything_is_touched() -> None:
    """The values of a sparse gradient are written as those of a dense one."""
    first, second = parameter(torch.tensor([3.0, 4.0])), parameter(None)
    second.data = torch.zeros(4)
    values = torch.ones(1).expand(2)
    second.grad = torch.sparse_coo_tensor(
        torch.tensor([[0, 2]]), values, (4,), is_coalesced=True, check_invariants=False
    )
    assert second.grad._values().stride() == (0,)
    for call in (gradclip.clip_grad_norm_, gradclip.clip_grad_value_):
        with pytest.raises(gradclip.OverlappingGradientError):
            call([first, second], 1.0)
    assert first.grad.tolist() == [3, 4]


def test_lazy_conjugates_are_clipped() -> None:
    """A gradient through `mH` is a view with a conjugate bit; a sliced one goes to plain torch."""
    base = torch.tensor([[3 + 4j, 0j], [0j, 1j]])
    p = nn.Parameter(torch.zeros(2, dtype=base.dtype))
    p.grad = base.conj()[:, 0]
    assert p.grad.is_conj()
    gradclip.clip_grad_norm_([p], 2.5, eps=0.0)
    assert p.grad.tolist() == pytest.approx([1.5 - 2j, 0])
    gradclip.clip_grad_value_([p], 1.0)
    assert p.grad.tolist() == pytest.approx([1 - 1j, 0])


def test_an_empty_sparse_gradient_has_norm_zero() -> None:
    """Whatever the order."""
    x = torch.sparse_coo_tensor(torch.empty(1, 0), torch.empty(0), (4,), check_invariants=True)
    assert [gradclip.get_total_norm([x], p).item() for p in (-1.0, -math.inf, 0.0, 2.0)] == [0.0] * 4


def test_a_list_that_changes_while_it_is_read() -> None:
    """Reading a non-leaf tensor's gradient warns, and what shows the warning may do anything."""
    tensors = [torch.ones(3, requires_grad=True) * 2 for _ in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_, **__: tensors.clear()
        assert gradclip.clip_grad_norm_(tensors, 1.0).item() == 0
    assert not tensors


def test_mixed_dtypes_share_one_norm_and_one_factor() -> None:
    """float64 among them makes the norm float64; every dtype keeps its own."""
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.complex64)
    parameters = [parameter(torch.tensor([2.0], dtype=dtype)) for dtype in dtypes]
    norm = gradclip.clip_grad_norm_(parameters, 2.0, eps=0.0)
    assert (norm.item(), norm.dtype) == (4.0, torch.float32)
    assert [p.grad.item() for p in parameters] == [1.0] * 4
    assert [p.grad.dtype for p in parameters] == list(dtypes)
    parameters.append(parameter(torch.tensor([math.sqrt(12.0)], dtype=torch.float64)))
    norm = gradclip.clip_grad_norm_(parameters, 1.0)
    assert (norm.item(), norm.dtype) == (pytest.approx(4.0, rel=1e-15), torch.float64)


def test_mixed_devices() -> None:
    """Gradients on two devices have one norm, on the device of the first."""
    if not torch.cuda.is_available():
        skip_without("cuda", "there is no CUDA device")
    parameters = [parameter(torch.tensor([3.0])), parameter(torch.tensor([4.0], device="cuda"))]
    assert gradclip.clip_grad_norm_(parameters, 1.0, eps=0.0).item() == 5
    assert [p.grad.item() for p in parameters] == pytest.approx([0.6, 0.8])
    assert gradclip.get_total_norm([p.grad for p in parameters[::-1]]).device.type == "cuda"


def test_meta_gradients_pass_through() -> None:
    """Shapes without memory have a norm without a value, and nothing is read from it."""
    p = nn.Parameter(torch.zeros(3, device="meta"))
    p.grad = torch.ones(3, device="meta")
    assert gradclip.clip_grad_norm_([p], 1.0).is_meta


@pytest.mark.parametrize("max_norm", [torch.tensor(1.0), torch.tensor([1.0]), torch.tensor(1, dtype=torch.int64), 1])
def test_bounds_may_be_tensors_or_integers(max_norm: float | Tensor) -> None:
    """One number is one number."""
    p = parameter(torch.tensor([3.0, 4.0]))
    gradclip.clip_grad_norm_([p], max_norm, eps=0.0)
    assert p.grad.tolist() == pytest.approx([0.6, 0.8])


def test_the_two_halves_are_the_whole() -> None:
    """get_total_norm and clip_grads_with_norm_ do together what clip_grad_norm_ does alone."""
    one, two = model(), model()
    gradclip.clip_grad_norm_(one, 1.0)
    norm = gradclip.get_total_norm([p.grad for p in two.parameters()])
    gradclip.clip_grads_with_norm_(two, 1.0, norm)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-6)


def test_clip_coefficient() -> None:
    """The multiplier in float64, on the device of the norm; NaN for a NaN norm, 1 without a bound."""
    coef = gradclip.clip_coefficient(torch.tensor(4.0), 1.0)
    assert (coef.item(), coef.dtype, coef.shape) == (1 / (4 + 1e-6), torch.float64, ())
    assert gradclip.clip_coefficient(0.5, 1.0).item() == 1
    assert gradclip.clip_coefficient(0.0, 0.0, eps=0.0).item() == 1
    assert math.isnan(gradclip.clip_coefficient(math.nan, 1.0).item())
    assert gradclip.clip_coefficient(math.nan, math.inf).item() == 1
    assert gradclip.clip_coefficient(math.inf, 1.0).item() == 0


def test_get_norms_names_every_gradient() -> None:
    """Names where names are given, places where not; one norm each and nothing written."""
    net = model()
    assert {name: norm.item() for name, norm in gradclip.get_norms(net).items()} == pytest.approx(
        {"0.weight": 2, "0.bias": math.sqrt(8), "1.weight": math.sqrt(18), "1.bias": 4}
    )
    assert list(gradclip.get_norms(net.parameters())) == [f"parameters[{i}]" for i in range(4)]
    optimizer = torch.optim.SGD([{"params": [p]} for p in net.parameters()], lr=1.0)
    assert list(gradclip.get_norms(optimizer)) == [f"param_groups[{i}][0]" for i in range(4)]
    assert [norm.item() for norm in gradclip.get_norms(net, 10.0).values()] == pytest.approx(
        [reference.norm([p.grad], 10.0) for p in net.parameters()]
    )
    with pytest.raises(ValueError, match="must name every parameter differently, got '0.weight' twice"):
        gradclip.get_norms([*net.named_parameters(), *model().named_parameters()])
    empty = parameter(torch.empty(0))
    assert [norm.item() for norm in gradclip.get_norms([empty], -math.inf).values()] == [0.0]


def test_clip_grad_value_leaves_what_is_inside() -> None:
    """Elements within the interval keep their bytes."""
    p = parameter(torch.tensor([-3.0, -0.0, 0.5, 4.0, math.nan]))
    gradclip.clip_grad_value_([p], 1)
    assert p.grad.tolist()[:4] == [-1, 0, 0.5, 1]
    assert p.grad.signbit()[1]
    assert p.grad[4].isnan()


@pytest.mark.parametrize(
    "exhaust", [iter, lambda x: filter(None, x), lambda x: map(abs, x), lambda x: zip(x, strict=True)]
)
def test_exhausted_iterators_warn(exhaust: Callable[[list[Tensor]], Iterable[Tensor]]) -> None:
    """An optimizer that walked the iterator first leaves nothing to clip."""
    for call in (
        lambda: gradclip.clip_grad_norm_(exhaust([]), 1.0),
        lambda: gradclip.clip_grad_value_(exhaust([]), 1.0),
        lambda: gradclip.clip_grads_with_norm_(exhaust([]), 1.0, 1.0),
        lambda: gradclip.get_norms(exhaust([])),
        lambda: gradclip.get_total_norm(exhaust([])),
    ):
        with pytest.warns(UserWarning, match="is an exhausted .* no gradient clipping will occur") as caught:
            call()
        assert caught[0].filename == __file__


def test_exhausted_generators_warn_in_the_words_of_torch() -> None:
    """Code that filters torch's warning goes on working."""
    parameters = model().parameters()
    torch.optim.SGD(parameters, lr=1.0)
    with pytest.warns(UserWarning, match="^`parameters` is an empty generator, no gradient clipping will occur.$"):
        gradclip.clip_grad_norm_(parameters, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradclip.clip_grad_norm_([], 1.0)


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")
def test_no_autograd_history() -> None:
    """Gradients that are themselves part of a graph are written as data, and their version tells autograd."""
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    (w**3).sum().backward(create_graph=True)
    version = w.grad._version
    norm = gradclip.clip_grad_norm_([w], 1.0)
    assert not norm.requires_grad
    assert w.grad._version > version


def test_in_place_writes_are_seen_by_autograd() -> None:
    """A backward pass through a value that clipping overwrote fails instead of going wrong."""
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    hidden = x * 2
    out = (hidden**2).sum()
    p = nn.Parameter(torch.zeros(2))
    p.grad = hidden.detach()
    gradclip.clip_grad_norm_([p], 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("norm_type", [2.0, math.inf, 3.0])
def test_compiles_as_one_graph(norm_type: float) -> None:
    """Where torch's function can be traced, so can ours."""

    def step(p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        p.grad = g * 2
        return gradclip.clip_grad_norm_([p], 1.0, norm_type), p.grad

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    for value in (0.1, 3.0):
        p, g = nn.Parameter(torch.zeros(3)), torch.full((3,), value)
        norm, clipped = compiled(p, g)
        expected = reference.norm([g * 2], norm_type)
        assert norm.item() == pytest.approx(expected)
        assert clipped.tolist() == pytest.approx([2 * value * reference.coefficient(expected, 1.0)] * 3)


@pytest.mark.filterwarnings("default")
def test_compiles_once_for_all_steps() -> None:
    """Every step has new gradients; a compiler that looked at who they are would compile again and again."""
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        del inputs
        compilations.append(graph)
        return graph.forward

    def step(parameters: list[Tensor]) -> Tensor:
        return gradclip.clip_grad_norm_(parameters, 1.0)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=backend, fullgraph=True)
    parameters = [parameter(torch.zeros(3)) for _ in range(3)]
    for _ in range(5):
        for p in parameters:
            p.grad = torch.ones(3)
        assert compiled([*parameters, parameters[0]]).item() == 3
    assert len(compilations) == 1


@pytest.mark.filterwarnings("default")
def test_compiles_where_there_is_nothing_to_clip() -> None:
    """No gradients, and a norm of 0."""
    compiled = torch.compile(lambda p: gradclip.clip_grad_norm_([p], 1.0), backend="eager", fullgraph=True)
    assert compiled(parameter(None)).item() == 0


@pytest.mark.filterwarnings("default")
def test_to_keep_gradients_reads_nothing() -> None:
    """The norm decides inside the graph: times 1 where it is not finite."""

    def step(p: Tensor, g: Tensor) -> Tensor:
        p.grad = g.clone()
        gradclip.clip_grad_norm_([p], 1.0, eps=0.0, nonfinite="keep")
        return p.grad

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    assert compiled(torch.nn.Parameter(torch.zeros(2)), torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6, 0.8])
    assert compiled(torch.nn.Parameter(torch.zeros(2)), torch.tensor([3.0, math.inf])).tolist() == [3.0, math.inf]


def test_tracers_record_the_clip() -> None:
    """A recorded graph clips new inputs, instead of remembering the answer to the old ones."""

    def step(p: Tensor, g: Tensor) -> Tensor:
        p.grad = g.clone()
        gradclip.clip_grad_norm_([p], 1.0, eps=0.0)
        return p.grad

    p, small, large = parameter(None), torch.tensor([3.0, 4.0]), torch.tensor([30.0, 40.0])
    p.data = torch.zeros(2)
    traced = torch.fx.experimental.proxy_tensor.make_fx(step)(p, small)
    assert traced(p, large).tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.filterwarnings("default")
def test_exported_programs_clip(strict: bool) -> None:
    """An exported program clips what it is given, not what it was exported with."""

    class Clip(nn.Module):
        def forward(self, g: Tensor) -> Tensor:
            norm = gradclip.get_total_norm([g])
            return g * gradclip.clip_coefficient(norm, 1.0, 0.0).to(g.dtype)

    program = torch.export.export(Clip(), (torch.tensor([3.0, 4.0]),), strict=strict).module()
    assert program(torch.tensor([30.0, 40.0])).tolist() == pytest.approx([0.6, 0.8])


def test_fake_tensors_have_a_norm_without_a_value() -> None:
    """What plans memory without computing gets a shape."""
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        p = nn.Parameter(torch.zeros(3))
        p.grad = torch.ones(3)
        assert gradclip.clip_grad_norm_([p], 1.0).shape == ()


def test_default_device_does_not_move_the_norm() -> None:
    """The norm lies where the gradients are."""
    with torch.device("meta"):
        p = nn.Parameter(torch.zeros(2, device="cpu"))
        p.grad = torch.tensor([3.0, 4.0], device="cpu")
        assert gradclip.clip_grad_norm_([p], 1.0).item() == 5
        assert [norm.item() for norm in gradclip.get_norms([p]).values()] == pytest.approx([1.0])


def test_a_clip_inside_functionalize_leaves_nothing_behind() -> None:
    """Places of gradients are found anew: what a transform has made is of no use outside of it."""
    q, p = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))

    def norms(x: Tensor) -> Tensor:
        p.grad = x * 1
        found = gradclip.get_norms([q, p])
        p.grad = None
        return torch.stack(list(found.values())).sum()

    torch.func.functionalize(norms)(torch.ones(3))
    p.grad = torch.ones(3)
    assert gradclip.get_norms([q, p])["parameters[1]"].item() == pytest.approx(3**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.3, math.inf, -math.inf])
def test_norms_of_each_sample(p: float, dtype: torch.dtype) -> None:
    """Inside `torch.func.vmap`, as differentially private training clips the gradient of each sample by itself."""
    gradients = [
        torch.randn(5, *shape, dtype=torch.complex64 if dtype.is_complex else None) for shape in ((3, 4), (7,))
    ]
    gradients = [x.to(dtype) for x in gradients]

    def clipped(*each: Tensor) -> tuple[Tensor, Tensor]:
        norm = gradclip.get_total_norm(each, p)
        return norm, each[0] * gradclip.clip_coefficient(norm, 0.5, 0.0).to(dtype)

    norms, left = torch.func.vmap(clipped)(*gradients)
    for i, norm in enumerate(norms.tolist()):
        sample = [x[i] for x in gradients]
        alone, expected = clipped(*sample)
        assert norm == pytest.approx(reference.norm(sample, p), rel=2e-7)
        assert norm == pytest.approx(alone.item(), rel=1e-7)
        torch.testing.assert_close(left[i], expected)


def test_the_norm_inside_a_gradient_of_a_function() -> None:
    """It has a value there, and as in torch no gradient."""
    x = torch.tensor([3.0, 4.0])
    gradient, norm = torch.func.grad_and_value(lambda v: gradclip.get_total_norm([v]) + v.sum())(x)
    assert (gradient.tolist(), norm.item()) == ([1.0, 1.0], 12.0)
