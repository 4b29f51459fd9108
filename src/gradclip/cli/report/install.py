"""What the report needs beside the core."""

from gradclip.cli import UserError
from gradclip.extras import how_to_install


def library() -> str:
    """Return the source of plotly.js, which the package plotly ships.

    Raises:
        UserError: If plotly is missing.
    """
    try:
        from plotly.offline import get_plotlyjs  # noqa: PLC0415 -- plotly may be missing
    except ImportError:
        raise UserError(f"the report needs plotly: {how_to_install('report')}") from None
    source: str = get_plotlyjs()
    return source
