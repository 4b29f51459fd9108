"""The page of a report: recorded runs in charts, tables and advice; `gradclip report` and `gradclip demo` write it."""

PACKAGES = ("polars", "plotly", "jinja2", "tsdownsample")
"""What it takes to make one."""
