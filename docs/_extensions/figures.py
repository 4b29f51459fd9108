"""The directive `drawn`: a figure that a script of `docs/plots/` draws when the site is built.

    ```{drawn} decisions zclip
    What the figure shows, which is its description for screen readers too.
    ```

It is put into the page as SVG, so that its ink has the colour of the text around it: dark on light, light on dark.
"""

import html
import importlib
import io
import re
from pathlib import Path
from typing import ClassVar, final

import matplotlib as mpl
from docutils import nodes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from plots.style import INK, SETTINGS
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


@final
class Drawn(SphinxDirective):
    """Draw `plots.MODULE.draw(*ARGUMENTS)`."""

    required_arguments = 1
    optional_arguments = 1
    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        """Return the figure with its caption."""
        module = importlib.import_module(f"plots.{self.arguments[0]}")
        self.env.note_dependency(str(Path(module.__file__).resolve()))
        buffer = io.StringIO()
        with mpl.rc_context(SETTINGS | {"svg.hashsalt": " ".join(self.arguments)}):
            FigureCanvasSVG(module.draw(*self.arguments[1:])).print_svg(buffer, metadata={"Date": None})
        svg = buffer.getvalue().replace(INK, "currentColor")
        label = html.escape(" ".join(self.content).replace("`", ""), quote=True)
        svg = re.sub(r".*?<svg ", f'<svg class="drawn" role="img" aria-label="{label}" ', svg, count=1, flags=re.DOTALL)
        caption = nodes.caption()
        caption += self.parse_inline(" ".join(self.content))[0]
        return [nodes.figure("", nodes.raw("", svg, format="html"), caption)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known."""
    app.add_directive("drawn", Drawn)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
