"""What the words mean, and how the file was read."""

from gradclip.cli.report.findings import Findings
from gradclip.cli.report.html import Html, tag, text

MEANINGS = (
    ("norm", "the 2-norm of all gradients together, as if they were one vector, unless the run was told otherwise"),
    ("threshold", "the norm above which gradients are scaled down, so that the norm becomes the threshold"),
    ("clipped", "scaled down or limited, in at least one gradient; the share is of all recorded steps"),
    ("skipped", "the optimizer did not step: the norm was not finite, or the policy or the loss scaler said so"),
    ("share of the squared norm", "the square of a tensor's norm, divided by the sum of the squares of all"),
    ("recorded norm cut off", "what a threshold takes away, summed over the steps, as a share of the sum of all norms"),
    ("interval", "where the threshold would lie in 95 of 100 recordings of the same training, by resampling"),
)


def about(findings: Findings) -> Html:
    """Return the end of the page."""
    remarks = [
        tag("li", text(f"{finding.run.name}: {remark}"))
        for finding in findings.each
        for remark in finding.run.series.remarks
    ]
    read = [tag("h2", text("About the files")), tag("ul", *remarks)] if remarks else []
    words = [part for name, meaning in MEANINGS for part in (tag("dt", text(name)), tag("dd", text(meaning)))]
    return tag(
        "footer",
        *read,
        tag("h2", text("What the words mean")),
        tag("dl", *words),
        tag(
            "p",
            text("Made by gradclip. Charts by plotly.js, MIT license. The page holds all it needs and loads nothing."),
        ),
    )
