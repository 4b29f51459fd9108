"""The native kernel as a part of a process: its threads, the GIL, fork, versions of the CPU, and being absent."""

import importlib
import os
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import gradclip
from conftest import skip_without
from gradclip.ops import registry
from processes import printed, run


@pytest.fixture(autouse=True)
def _native() -> None:
    if registry.native() is None:
        skip_without("native", registry.NATIVE_MISSING or "GRADCLIP_BACKEND asks for another backend")


def test_one_openmp_runtime_in_the_process() -> None:
    """The kernels use torch's thread pool; two pools that spin against each other slow both sides down."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list the libraries of a process")
    gradclip.get_total_norm([torch.ones(2**23)])
    loaded = set(re.findall(r"/\S*lib(?:gomp|omp|iomp)\S*\.so\S*", maps.read_text()))
    assert len(loaded) == 1, loaded


def test_threads_follow_torch() -> None:
    """A pool grows with torch.set_num_threads, and one thread means none beside the caller."""
    if not Path("/proc/self/task").exists():
        pytest.skip("this system does not list the threads of a process")
    script = """
        import os, torch
        torch.set_num_threads(1)
        import gradclip
        x = torch.empty(2**23).zero_()
        before = len(os.listdir("/proc/self/task"))
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            gradclip.get_total_norm([x])
            print(len(os.listdir("/proc/self/task")) - before)
    """
    assert printed(script).split() == ["0", "1", "3"]


def test_small_gradients_stay_on_the_calling_thread() -> None:
    """Waking a thread may cost more than half a million elements do."""
    if not Path("/proc/self/task").exists():
        pytest.skip("this system does not list the threads of a process")
    script = """
        import os, torch
        torch.set_num_threads(1)
        import gradclip
        x = torch.zeros(2**19 - 1)
        before = len(os.listdir("/proc/self/task"))
        torch.set_num_threads(4)
        gradclip.get_total_norm([x])
        print(len(os.listdir("/proc/self/task")) - before)
    """
    assert printed(script).split() == ["0"]


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_the_number_of_threads_does_not_change_a_bit(p: float) -> None:
    """Chunks and the order of their sums depend on the gradients alone."""
    tensors = [torch.randn(5_000_003), torch.randn(7), torch.randn(300_000).to(torch.bfloat16)]
    before, norms = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            norms.add(registry.NATIVE.open(tensors).partial(p))
    finally:
        torch.set_num_threads(before)
    assert len(norms) == 1


def test_the_number_of_threads_does_not_change_a_bit_of_a_unit() -> None:
    """A unit that two threads share is added up in the order of its pieces, and scaled once."""
    tensors = [torch.randn(100_000, 9), torch.randn(3, 400_003), torch.randn(700_001), torch.randn(300, 500).t()]
    before, answers = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            sums = registry.NATIVE.open(tensors).unit_partials()
            scaled = [x.clone() for x in tensors]
            registry.NATIVE.open(scaled).scale_units_(sums / (1 + sums))
            answers.append([sums, *scaled])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for answer in answers[1:] for x, y in zip(answers[0], answer, strict=True))


def test_called_from_many_threads_at_once() -> None:
    """Each caller gets its own answer and writes its own gradients."""
    failures: list[str] = []

    def work(seed: int) -> None:
        x = torch.full((5_000_000 + seed,), float(seed + 1))
        p = torch.nn.Parameter(torch.zeros_like(x))
        for _ in range(3):
            p.grad = x.clone()
            norm = gradclip.clip_grad_norm_([p], 1.0, float("inf"), eps=0.0).item()
            if norm != seed + 1 or not bool((p.grad == 1.0).all() if seed else (p.grad == x).all()):
                failures.append(f"{seed}: {norm}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_gil_is_released() -> None:
    """Python goes on while a kernel runs."""
    x = torch.rand(10_000_000)
    started, ended = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        registry.NATIVE.open([x]).partial(3.3)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    turns = 0
    while not ended.is_set():
        turns += 1
        ended.wait(0.001)
    thread.join()
    assert turns > 5


def test_after_fork() -> None:
    """A pool's threads do not survive fork(); the child must not wait for them."""
    script = """
        import os, signal, torch, gradclip
        torch.set_num_threads(2)
        x = torch.ones(2**24)
        assert gradclip.get_total_norm([x]).item() == 2**12
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            torch.set_num_threads(2)
            os._exit(0 if gradclip.get_total_norm([x]).item() == 2**12 else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert printed(script).split() == ["0"]


class Norms(Dataset[float]):
    """Items that are norms of large tensors."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        return gradclip.get_total_norm([torch.full((2**22,), float(index))]).item()


def test_in_a_dataloader_worker() -> None:
    """Forked workers use the library too, after the parent has used its threads."""
    gradclip.get_total_norm([torch.ones(2**23)])
    loader = DataLoader(Norms(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert list(loader) == [index * 2.0**11 for index in range(4)]


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_is_at_hand(isa: str) -> None:
    """`GRADCLIP_ISA` chooses among what the CPU has; the conformance tests run under each."""
    answer = printed("from gradclip.ops.native import ISA; print(ISA)", GRADCLIP_ISA=isa).strip()
    if answer != isa:
        pytest.skip(f"this CPU has no {isa}: {answer} answers")


def test_mixed_lists_go_to_both_backends() -> None:
    """What the kernels do not take, plain torch does, in one norm."""
    dense, sliced = torch.full((5,), 3.0), torch.full((4, 4), 1.0)[:, ::2]
    batch = registry.open_([dense, sliced, dense])
    parts = [(type(part).__name__, list(at)) for part, at in batch._parts]
    assert parts == [("NativeBatch", [0, 2]), ("ReferenceBatch", [1])]
    assert gradclip.get_total_norm([dense, sliced]).item() == pytest.approx(53**0.5)


def test_kernels_refuse_what_they_cannot_read() -> None:
    """The extension itself never touches memory that it does not understand."""
    from gradclip.ops import _native

    for bad in (torch.ones(4, 4)[:, ::2], torch.ones(3, dtype=torch.int32), torch.ones(2, device="meta"), 3):
        with pytest.raises(TypeError, match=r"tensors\[1\] is not a dense floating-point CPU tensor"):
            _native.measure([torch.ones(2), bad], 2.0)
        assert not registry.NATIVE.takes([bad])
    with pytest.raises(TypeError, match="tensors must be a list"):
        _native.measure((torch.ones(2),), 2.0)
    with pytest.raises(TypeError, match="must be a dense float64 CPU tensor of 1 elements"):
        _native.scale_([torch.ones(2)], torch.ones(2, dtype=torch.float64))
    with pytest.raises(TypeError, match="must be a dense float64 CPU tensor of 3 elements"):
        _native.scale_units_([torch.ones(2, 4), torch.ones(4)], torch.ones(6, dtype=torch.float64))


def test_filters_are_read_where_they_are() -> None:
    """Only units that are scattered over memory are left to a copy, or to plain torch."""
    from gradclip.ops import _native

    filters = torch.ones(4, 3, 2, 2)
    tensors = [filters, filters.to(memory_format=torch.channels_last), torch.ones(5, 4).t(), torch.ones(5, 1).t()]
    assert _native.units(tensors) == [4, 4, 4, 1]
    assert _native.unit_square_sums(tensors, torch.empty(13, dtype=torch.float64)) == [2]
    assert _native.scale_units_(tensors, torch.ones(13, dtype=torch.float64)) == [2]


@pytest.mark.parametrize(
    ("name", "answer"), [("native", "NativeBatch"), ("reference", "ReferenceBatch"), ("", "NativeBatch")]
)
def test_the_environment_forces_a_backend(name: str, answer: str) -> None:
    """GRADCLIP_BACKEND names who answers."""
    script = """
        import torch
        from gradclip.gradients import gather
        print(type(gather("f", [torch.ones(3)]).batch).__name__)
    """
    assert printed(script, GRADCLIP_BACKEND=name).strip() == answer


def test_forcing_what_is_missing_says_why() -> None:
    """An unknown name, or kernels that cannot be loaded, are errors and not fallbacks."""
    script = "import torch, gradclip; gradclip.get_total_norm([torch.ones(3)])"
    missing = "import sys; sys.modules['gradclip.ops._native'] = None\n" + script
    unknown = run(script, GRADCLIP_BACKEND="cuda")
    assert (
        "BackendUnavailableError: `GRADCLIP_BACKEND` must be 'native', 'triton' or 'reference', got 'cuda'"
        in unknown.stderr
    )
    clip = "import torch, gradclip; p = torch.zeros(3); p.grad = torch.ones(3); gradclip.clip_grad_norm_([p], 1.0)"
    assert "must be 'native', 'triton' or 'reference', got 'cuda'" in run(clip, GRADCLIP_BACKEND="cuda").stderr
    forced = run(missing, GRADCLIP_BACKEND="native")
    assert "`GRADCLIP_BACKEND=native` asks for kernels that cannot run here: " in forced.stderr
    assert "_native" in forced.stderr
    assert run(missing, GRADCLIP_BACKEND="").returncode == 0


@pytest.mark.parametrize("name", ["measure", "scale_", "clamp_"])
def test_a_list_that_is_emptied_meanwhile(name: str) -> None:
    """The tensors are kept until they are done with: their memory may be another's otherwise."""
    gone = [torch.full((1000,), 3.0)]
    alive = weakref.ref(gone[0])
    number = type("Clears", (), {"__float__": lambda _: gone.clear() or 2.0})()
    answer = getattr(importlib.import_module("gradclip.ops._native"), name)(gone, number)
    assert gone == []
    assert answer is None or answer == pytest.approx(9000.0)
    assert alive() is None


def test_no_memory_for_the_answer() -> None:
    """A tensor that cannot be made is an error, and nothing is freed twice: in a process of its own."""
    pytest.importorskip("_testcapi", reason="this Python was built without the means to have allocations fail")
    script = (
        "import _testcapi\n"
        "from gradclip.ops import _native\n"
        "failed = 0\n"
        "for n in range(40):\n"
        "    _testcapi.set_nomemory(n, n + 1)\n"
        "    try:\n"
        "        answer = _native.scalar(1.5, True)\n"
        "    except (MemoryError, RuntimeError):\n"
        "        failed += 1\n"
        "    finally:\n"
        "        _testcapi.remove_mem_hooks()\n"
        "print(failed)\n"
    )
    environment = {**os.environ, "MALLOC_CHECK_": "3"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_a_forced_backend_is_that_of_its_thread() -> None:
    """Others go on as they were."""
    seen: list[bool] = []

    def look() -> None:
        seen.append(registry.native() is None)

    with registry.forced("reference"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        look()
    look()
    assert seen == [registry.FORCED.get() == "reference", True, registry.FORCED.get() == "reference"]


IMPORTED = """
import torch
import torch.distributed.fsdp
import torch.distributed.tensor.parallel
import torch.distributed.tensor.parallel.ddp
import sys
import gradclip


class Quantized(torch.Tensor):
    pass


def refuse(*_, **__):
    raise AssertionError("the slow way")


sys.modules["gradclip.gradients.collect"].layout_of = refuse
frozen = torch.nn.Parameter(torch.zeros(3).as_subclass(Quantized), requires_grad=False)
lazy = torch.nn.LazyLinear(2).weight
p = torch.nn.Parameter(torch.zeros(2))
p.grad = torch.tensor([3.0, 4.0])
assert gradclip.clip_grad_norm_([frozen, p, lazy], 1.0, eps=0.0).item() == 5.0
assert p.grad.tolist() == [0.6000000238418579, 0.800000011920929]
p._fsdp_flattened = True
try:
    gradclip.clip_grad_norm_([p], 1.0)
except AssertionError:
    pass
else:
    raise SystemExit("what FSDP1 has marked was taken for a plain tensor")
"""


def test_what_is_imported_is_not_what_is_used() -> None:
    """FSDP and DTensor may be imported, and frozen parameters may be of any class: the rest goes the fast way."""
    printed(IMPORTED)


def test_an_owner_of_another_class_with_a_gradient() -> None:
    """It is not passed over."""

    class Other(Tensor):
        pass

    other = torch.zeros(2).as_subclass(Other).requires_grad_()
    other.grad = torch.tensor([3.0, 0.0]).as_subclass(Other)
    p = torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.tensor([4.0])
    assert gradclip.clip_grad_norm_([p, other], 10.0).item() == 5.0


class Rewrapped(Tensor):
    """A tensor whose gradient is another object at every look."""

    @property
    def grad(self) -> Tensor | None:  # type: ignore[override]
        own = super().grad
        return None if own is None else own.view_as(own)


def test_gradients_that_are_new_at_every_look() -> None:
    """One that is gone must not be taken for the next, which may have its address."""
    owners = [torch.zeros(4).as_subclass(Rewrapped).requires_grad_() for _ in range(4)]
    plain = torch.nn.Parameter(torch.zeros(4))
    for owner in owners:
        torch.Tensor.grad.__set__(owner, torch.full((4,), 3.0))  # type: ignore[attr-defined]
    plain.grad = torch.full((4,), 3.0)
    given = [*owners, plain]
    assert gradclip.clip_grad_norm_(given, 1.0, eps=0.0).item() == pytest.approx(6.0 * 5.0**0.5)
    left = [x.grad.norm().item() for x in given]
    assert left == pytest.approx([5.0**-0.5] * 5)


def test_an_error_keeps_nothing_alive() -> None:
    """Neither a bad argument nor a gradient that cannot be written holds parameters until the collector runs."""
    import gc

    gc.disable()
    try:
        for grad, max_norm in ((torch.ones(2), -1.0), (torch.ones(1).expand(2), 1.0)):
            p = torch.nn.Parameter(torch.zeros(2))
            p.grad = grad
            alive = weakref.ref(p)
            with pytest.raises((ValueError, RuntimeError)):
                gradclip.clip_grad_norm_([p], max_norm)
            del p
            assert alive() is None
    finally:
        gc.enable()


def test_an_error_leaves_an_iterator_to_walk() -> None:
    """What is refused for another argument can be passed again."""
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    parameters = iter([p])
    with pytest.raises(ValueError, match="max_norm"):
        gradclip.clip_grad_norm_(parameters, -1.0)
    assert gradclip.clip_grad_norm_(parameters, 1.0).item() == 5.0
