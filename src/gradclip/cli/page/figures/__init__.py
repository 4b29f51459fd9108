"""The charts of the report, each a figure of plotly; the page draws them."""

from plotly.graph_objects import Figure

from gradclip.cli.page.figures.heat import heat
from gradclip.cli.page.figures.histogram import histogram
from gradclip.cli.page.figures.over_steps import loss, norms, policies, rate
from gradclip.cli.page.runs import Runs

__all__ = ["figures_of"]


def figures_of(runs: Runs) -> dict[str, Figure]:
    """Return the charts by name, without those that there are no numbers for."""
    made = {chart.__name__: chart(runs) for chart in (norms, rate, loss, histogram, policies, heat)}
    return {name: figure for name, figure in made.items() if figure is not None}
