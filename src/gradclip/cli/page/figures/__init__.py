"""The charts of the report, each a figure of plotly; the page draws them."""
