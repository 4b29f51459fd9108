"""Where a framework is not installed, its integration says in one line what to install."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("integration", "packages", "message"),
    [
        ("transformers", ["transformers"], "needs transformers: pip install transformers"),
        ("lightning", ["lightning", "pytorch_lightning"], "needs Lightning: pip install lightning"),
    ],
)
def test_what_to_install_is_said(
    integration: str, packages: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"gradclip.integrations.{integration}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=message) as caught:
        importlib.import_module(f"gradclip.integrations.{integration}")
    assert caught.value.name == packages[0]
