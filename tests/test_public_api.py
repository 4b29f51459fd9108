"""The public names and signatures are those that are written down: what changes them shows in a diff."""

from importlib.util import find_spec

import pytest

from conftest import skip_without
from public_api import MODULES, recorded, section


@pytest.mark.parametrize("name", MODULES)
def test_public_names_and_signatures(name: str) -> None:
    """As `public_api.txt` lists them; `make api` writes what is meant to change, and CHANGELOG.md says so."""
    if name.startswith("gradclip.integrations.") and not find_spec(name.rpartition(".")[2]):
        skip_without("integrations", f"{name} needs its framework")
    assert section(name) == recorded(name)
