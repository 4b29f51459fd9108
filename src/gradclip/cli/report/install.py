"""What the report needs beside the core."""

from importlib import import_module

from gradclip.cli import UserError
from gradclip.extras import how_to_install

MODULES = ("plotly.offline", "jinja2", "tsdownsample")


def check_packages() -> None:
    """Say before any work is done which package is missing.

    Raises:
        UserError: If one is.
    """
    try:
        for module in MODULES:
            import_module(module)
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"the report needs {package}: {how_to_install('report')}") from None
