"""What the report needs beside the core."""

from gradclip.cli import UserError


def library() -> str:
    """Return the source of plotly.js, which the package plotly ships.

    Raises:
        UserError: If plotly is missing.
    """
    try:
        from plotly.offline import get_plotlyjs  # noqa: PLC0415 -- plotly may be missing
    except ImportError:
        raise UserError('the report needs plotly: pip install "gradclip[report]"') from None
    source: str = get_plotlyjs()
    return source
