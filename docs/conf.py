"""How the site is built: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "_extensions")]

import gradclip  # noqa: E402

project = "gradclip"
author = "The gradclip authors"
project_copyright = author
version = release = gradclip.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "figures",
    "mathml",
    "prose",
]
exclude_patterns = ["_figures"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

default_role = "literal"  # docstrings quote code with one backtick
add_module_names = False
highlight_language = "none"  # blocks that name none are what programs print
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

nitpicky = True
nitpick_ignore_regex = [
    # No inventory is fetched, so that the site builds without a network: what is not ours is named, not linked.
    (r"py:.*", r"(torch|collections|typing|contextlib|pathlib|os|enum|concurrent)\..*"),
    # What signatures name and nobody has to make: where it comes from, the page says.
    (
        r"py:.*",
        r"gradclip\.(units|result|records\.(alarms|tensorboard)|testing\.ranks|policies\.(layout|measured)|analysis\.series)\..*",
    ),
]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"gradclip {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6aa2", "color-brand-content": "#0b6aa2"},
    "dark_css_variables": {"color-brand-primary": "#6cb6e8", "color-brand-content": "#6cb6e8"},
}
