"""What norms say does not depend on the device that a program makes its tensors on by default."""

from pathlib import Path

import pytest
import torch

from analysis.norms import lognormal
from gradclip.analysis import advise, replay
from gradclip.policies import AdaGC, FixedNorm, ZClip


@pytest.mark.parametrize("of_file", [False, True], ids=["norms", "a file"])
def test_advice(of_file: bool, tmp_path: Path) -> None:
    norms = lognormal(400).tolist()
    path = tmp_path / "run.csv"
    path.write_text("\n".join(["step,grad_norm", *(f"{i},{x!r}" for i, x in enumerate(norms))]) + "\n")
    recorded = path if of_file else norms
    expected = advise(recorded)
    with torch.device("meta"):
        assert advise(recorded).to_dict() == expected.to_dict()


def test_replays() -> None:
    totals = lognormal(200).tolist()
    each = [{"a": x, "b": 2.0 * x} for x in totals]
    for policy, norms in ((FixedNorm(1.0), totals), (ZClip(2.0), totals), (AdaGC(2.0), each)):
        expected = replay(policy, norms)
        with torch.device("meta"):
            found = replay(policy, norms)
        assert torch.equal(found.norms_after, expected.norms_after)
        assert found.share_clipped == expected.share_clipped
