"""The reference is complete: names, errors, warnings, commands and variables."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import gradclip
from gradclip import exceptions
from gradclip.analysis.reading import ReadError
from gradclip.cli.app import COMMANDS
from gradclip.clipper import misuse
from gradclip.testing import RankError

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
POLICIES = ROOT / "docs" / "policies"

DOCUMENTED = "\n".join(page.read_text("utf-8") for folder in (REFERENCE, POLICIES) for page in folder.glob("*.md"))
"""All pages whose names are made from docstrings."""

MODULES = ("", ".policies", ".records", ".analysis", ".distributed", ".testing", ".patching")


def documented() -> set[str]:
    """The names that autodoc is asked for, by the last part."""
    return {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: (\S+)", DOCUMENTED, flags=re.MULTILINE)}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    """Those that `__all__` lists, but for modules, whose own names are."""
    found = importlib.import_module(f"gradclip{module}")
    names = {name for name in found.__all__ if not inspect.ismodule(getattr(found, name))}
    assert names <= documented()
    listed = (REFERENCE / "index.md").read_text("utf-8")
    if module != ".policies":  # each has a page
        assert all(f"`{name}`" in listed for name in names - errors())


def errors() -> set[str]:
    """The errors and warnings that users may meet, by name."""
    own = {name for name, value in vars(exceptions).items() if inspect.isclass(value)}
    return own | {ReadError.__name__, RankError.__name__}


def test_every_error_has_a_cause_and_a_remedy() -> None:
    """One row each, and no row for what does not exist."""
    page = (REFERENCE / "errors.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+Error)` \| (\S.*?) \| (\S.*?) \|$", page, flags=re.MULTILINE)
    assert {row[0] for row in rows} == errors() - {"MisuseWarning"}
    assert "MisuseWarning" in page


def test_every_misuse_has_a_cause_and_a_remedy() -> None:
    """By the words that the warning begins with, each of which means one of them."""
    page = (REFERENCE / "errors.md").read_text("utf-8")
    table = page[page.index("## Misuse") : page.index("## Other warnings")]
    beginnings = [row.strip() for row in re.findall(r"^\| (.*?) \| \S.*? \| \S.*? \|$", table, flags=re.MULTILINE)][1:]
    words = [value for name, value in vars(misuse).items() if name.isupper() and isinstance(value, str)]
    words = [word for word in words if word != misuse.PLACE]
    for word in words:
        assert any(beginning in word for beginning in beginnings), word
    for beginning in beginnings:
        assert any(beginning in word for word in words), beginning


def test_every_plain_error_is_one_that_the_code_raises() -> None:
    """The words of each row stand in the sources, as one text."""
    page = (REFERENCE / "errors.md").read_text("utf-8")
    table = page[page.index("### Plain RuntimeError") : page.index("## Misuse")]
    rows = re.findall(r"^\| (.*?) \| \S.*? \| \S.*? \|$", table, flags=re.MULTILINE)[1:]
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "src" / "gradclip").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = [node.value for node in nodes if isinstance(node.value, str)]
    assert len(rows) == 11
    for row in rows:
        assert any(row in text for text in texts), row


def test_every_other_warning_is_one_that_the_code_gives() -> None:
    """The words of each row stand in the sources, where something is warned of."""
    page = (REFERENCE / "errors.md").read_text("utf-8")
    rows = re.findall(r"^\| `(?:User|Future)Warning` \| (.*?) \|", page, flags=re.MULTILINE)
    sources = [path.read_text("utf-8") for path in (ROOT / "src" / "gradclip").rglob("*.py")]
    warning = [text for text in sources if re.search(r"warn", text)]
    assert len(rows) == 11
    assert all(any(row in text for text in warning) for row in rows)


def test_every_command_is_in_the_reference() -> None:
    """One row each."""
    page = (REFERENCE / "commands.md").read_text("utf-8")
    assert re.findall(r"^\| `gradclip (\w+)", page, flags=re.MULTILINE) == [x.__name__ for x in COMMANDS]


def test_every_variable_is_in_the_reference() -> None:
    """Those of ours that the library reads, in Python or C++."""
    page = (REFERENCE / "commands.md").read_text("utf-8")
    code = "".join(path.read_text("utf-8") for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "csrc").iterdir()))
    read = set(re.findall(r'env(?:iron\.get|iron)?\W+"(GRADCLIP_\w+)"', code))
    assert read == set(re.findall(r"^\| `(GRADCLIP_\w+)`", page, flags=re.MULTILINE))


def test_every_policy_has_a_page() -> None:
    """With its class, what it does to the run that all pages show, and its names elsewhere."""
    classes = {
        name
        for name in gradclip.policies.__all__
        if inspect.isclass(value := getattr(gradclip.policies, name))
        and issubclass(value, gradclip.policies.Policy)
        and value is not gradclip.policies.Policy
    }
    pages = {page.name: page.read_text("utf-8") for page in POLICIES.glob("*.md") if page.name != "index.md"}
    titles = {re.match(r"# (\w+)\n", text)[1]: text for text in pages.values()}
    assert set(titles) == classes
    for title, text in titles.items():
        assert f".. autoclass:: gradclip.policies.{title}\n" in text
        assert "```{drawn} decisions " in text
        assert "## Elsewhere\n" in text
