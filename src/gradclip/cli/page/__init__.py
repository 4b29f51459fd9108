"""The page of a report: recorded runs in charts, tables and advice; `gradclip report` and `gradclip demo` write it."""

PACKAGES = ("polars", "plotly", "jinja2", "tsdownsample")
"""What it takes to make one."""

MOST_RUNS = 6
"""How many runs it can hold: as many colours as every kind of colour vision tells apart."""
