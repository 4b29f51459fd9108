"""How to install what a part of gradclip needs beside torch: said in one place, as no index has the package yet."""


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra, `"cli"` or `"report"`."""
    return f'pip install ".[{extra}]" in a clone of gradclip'
