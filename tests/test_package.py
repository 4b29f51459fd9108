"""The package as a product: what importing it loads, what it exports, and that its examples are true."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradclip
from processes import printed

FORBIDDEN = (
    "triton",
    "matplotlib",
    "plotly",
    "polars",
    "tensorboard",
    "rich",
    "typer",
    "lightning",
    "transformers",
    "torch.distributed.tensor",
)

PAGES = ["README.md", "README.zh-CN.md"]


def test_import_loads_torch_and_nothing_else() -> None:
    """No framework is imported to find out whether it is there."""
    script = f"""
import sys, torch
before = set(sys.modules)
import gradclip
new = {{name.split('.')[0] for name in set(sys.modules) - before}} - {{'gradclip'}}
new = sorted(new - set(sys.stdlib_module_names))
print(new, [name for name in {FORBIDDEN!r} if name in sys.modules and name not in before])
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[] []"


@pytest.mark.parametrize("name", ["gpu", "decisions", "graphs"])
def test_benchmarks_of_a_gpu_need_torch_alone(name: str) -> None:
    """They run where nothing can be installed from, and no command can be."""
    folder = Path(__file__).parents[1] / "benchmarks"
    lacking = f"import sys; sys.modules.update(dict.fromkeys({FORBIDDEN!r})); sys.path.insert(0, {str(folder)!r})"
    printed(f"{lacking}\nimport torch, {name}")


def test_public_names_are_what_all_says() -> None:
    """`__all__` is sorted, complete, and every name says who made it."""
    assert list(gradclip.__all__) == sorted(gradclip.__all__)
    public = {name for name, value in vars(gradclip).items() if not name.startswith("_") and not _is_module(value)}
    assert public | {"distributed", "policies"} == set(gradclip.__all__)
    assert all(getattr(gradclip, name).__doc__ for name in gradclip.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", gradclip.__version__)


def test_how_to_install_it_is_said_in_one_place() -> None:
    """Elsewhere a hint names another package, which any index has."""
    folder = Path(inspect.getfile(gradclip)).parent
    hints = {
        f"{path.name}: {words}"
        for path in folder.rglob("*.py")
        if path.name != "extras.py"
        for words in re.findall(r"(?:pip|uv|conda) (?:install|add) [^`\"'}]*", path.read_text())
    }
    named = {"lightning.py": "lightning", "transformers.py": "transformers", "events.py": "tensorboard"}
    assert hints == {f"{file}: pip install {package}" for file, package in named.items()}


def _is_module(value: object) -> bool:
    return type(value).__name__ == "module"


MODULES = ["gradclip", *(module.name for module in pkgutil.walk_packages(gradclip.__path__, "gradclip."))]


@pytest.mark.parametrize("name", [name for name in MODULES if "__main__" not in name and "_native" not in name])
def test_examples_in_docstrings(name: str) -> None:
    """Every example in a docstring prints what it says."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"an extra is missing: {error.name}")
    except ImportError as error:
        if name != "gradclip.ops.native":
            raise
        pytest.skip(f"the native backend is missing: {error}")
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_public_functions_have_examples() -> None:
    """Each public function shows its use in an example that ran above."""
    functions = [x for name in gradclip.__all__ if inspect.isfunction(x := getattr(gradclip, name))]
    assert functions and all(re.search(r">>> .*gradclip\.", function.__doc__) for function in functions)


WITHOUT_DISTRIBUTED = """
import torch, torch._dynamo, torch.optim, sys
import torch.distributed as distributed

for name in [name for name in vars(distributed) if not name.startswith("__") and name != "breakpoint"]:
    if type(getattr(distributed, name)).__name__ != "module":
        delattr(distributed, name)
for name in [name for name in sys.modules if name.startswith("torch.distributed.")]:
    del sys.modules[name]
distributed.is_available = lambda: False
import gradclip

w = torch.nn.Parameter(torch.zeros(2))
w.grad = torch.tensor([3.0, 4.0])
assert gradclip.clip_grad_norm_([w], 1.0).item() == 5.0
optimizer = torch.optim.SGD([w], lr=0.1)
clipper = gradclip.GradClipper([w], gradclip.policies.AdaGC(1.0), check_replicas_every=1).attach(optimizer)
optimizer.step()
assert clipper.last.status == "ok" and gradclip.get_norms([w])
try:
    gradclip.clip_grad_norm_([w], 1.0, group=3)
except RuntimeError as error:
    assert "this build of torch has no torch.distributed" in str(error)
else:
    raise AssertionError
"""


def test_a_torch_without_distributed() -> None:
    """There are builds of torch that have next to nothing in that module; nothing here needs it to be imported."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT_DISTRIBUTED], check=True)


SPELLINGS = {
    "torch.nn.utils.clip_grad_norm_": "torch.nn.utils.clip_grad_norm_([p], 1.0)",
    "nn.utils": "from torch import nn\nnn.utils.clip_grad_norm_([p], 1.0)",
    "an import": "from torch.nn.utils import clip_grad_norm_\nclip_grad_norm_([p], 1.0)",
    "the module": "torch.nn.utils.clip_grad.clip_grad_norm_([p], 1.0)",
    "an import of the module": "from torch.nn.utils.clip_grad import clip_grad_norm_ as clip\nclip([p], 1.0)",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_exchange_of_torchs_function(name: str) -> None:
    """The lines of the pages reach it however a script calls it: with ours, 1e20 does not become 0."""
    texts = "".join((Path(__file__).parent.parent / page).read_text(encoding="utf-8") for page in PAGES)
    lines, others = re.findall(r"```py\n(import gradclip\n\ngradclip.patch\(\)\n)```", texts)
    assert lines == others
    script = (
        f"{lines}\nimport torch\np = torch.nn.Parameter(torch.zeros(1000))\np.grad = torch.full_like(p, 1e20)\n"
        f"{SPELLINGS[name]}\n"
        "assert abs(p.grad.norm().item() - 1.0) < 1e-3, p.grad\n"
    )
    printed(script)


@pytest.mark.parametrize("page", PAGES)
def test_examples_in_the_readme(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each Python block of a README runs by itself, as a reader would copy it."""
    text = (Path(__file__).parent.parent / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)  # they may write files
    for block in blocks:
        exec(compile(block, page, "exec"), {})  # noqa: S102 -- our own page
