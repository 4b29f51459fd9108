"""Compile the kernels that rules become for GPUs: run by `test_rules.py` in a process without the interpreter."""

import re
import sys
from typing import Any

import pytest
import torch
import triton
from triton.compiler import ASTSource

import test_rules as rules
from compile_kernels import TARGETS
from conftest import take_elsewhere
from gradclip.ops.triton import fusing
from gradclip.ops.triton.rule import Rule
from gradclip.stages import Stage

NAMES = [
    "BlockRMS", "AGC", "AutoClip", "AutoClip each", "MedianClip", "ZClip", "SpikeSkip", "AdaGC, free", "by_name",
    "by_group that learns",
]  # fmt: skip
FOLDED = {"3ff0000000000000", "7ff0000000000000", "7ff8000000000000", "4000000000000000"}
"""Numbers that a compiler finds another way: 1, infinity, NaN, and 2, by which it adds twice."""

TYPES = {torch.float64: "*fp64", torch.int64: "*i64", torch.bool: "*i1"}


def calls_of(patch: pytest.MonkeyPatch) -> list[Any]:
    """Return a launch of each kernel; none is done, and what comes of it is what was in memory."""
    found: list[Any] = []
    patch.setattr(fusing, "launch", lambda calls, _: found.append(calls))
    patch.setattr("gradclip.ops.registry.kernels_for_rules", lambda _: Made)
    for name in NAMES:
        stage = Stage(rules.EVERY[name], rules.LAYOUT)
        for norms in rules.given(3):
            stage.decide(norms)
    return list({call.kernel: call for calls in found for call in calls}.values())


class Made:
    rule = Rule


def main() -> None:
    """Compile all for all targets, and look at their numbers and products."""
    with pytest.MonkeyPatch.context() as patch:
        take_elsewhere(patch)
        calls = calls_of(patch)
    for name, target in TARGETS.items():
        for call in calls:
            names = call.kernel.arg_names
            signature = {x: TYPES[own.dtype] for x, own in zip(names, call.arguments, strict=False)}
            source = ASTSource(call.kernel, {**signature, "BLOCK": "constexpr"}, {(len(names) - 1,): fusing.BLOCK})
            options = {"num_warps": call.warps, "enable_fp_fusion": call.fused}
            found = triton.compile(source, target=target, options=options)
            if target.backend == "cuda":
                written = set(re.findall(r"number\(0x([0-9a-f]{16})\)", call.kernel.src)) - FOLDED
                assert not [bits for bits in written if f"0d{bits.upper()}" not in found.asm["ptx"]]
                assert not re.search(r"fma\.rn\.f64|\.f32", found.asm["ptx"])
        sys.stdout.write(f"{name}: {len(calls)} kernels\n")


if __name__ == "__main__":
    sys.exit(main())
