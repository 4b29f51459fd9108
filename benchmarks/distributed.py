"""What clipping costs on several ranks, ours beside torch's, and whether the norm is right on every layout.

1. A model of 288 DTensors that FSDP2 shards over two ranks: every call, unclipped and clipping.
2. Small DTensors: the cost over their number and over the number of ranks; drawn with `--plot`.
3. Every layout of `tests/layouts.py`: agreement with the float64 norm of the gathered gradients, and collectives.
4. Large jobs: the collectives, counted on one rank of a group whose other ranks are not there.

Answers are checked first. Each rank stays on a core. All providers take turns within a round, in a random order. Before
every call, the gradients are made anew in storage of their own, 64 MiB are read and written on each rank, and the ranks
meet at a barrier. A call takes as long as on the slowest rank.

    python benchmarks/distributed.py
    python benchmarks/distributed.py --quick
"""

import argparse
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import torch
from distributed_layouts import DTYPES, LAYOUTS, ORDERS, Agreement, Traffic, agreed, agreements, traffic
from distributed_timing import BLOCKS, Timing, blocks, measure, slopes, small

from gradclip.cli.bench.command import machine
from gradclip.testing import RankPool

HOME = Path(__file__).parent
FULL = {"sizes": (1, 2, 4, 8), "counts": (100, 300, 1000, 3000, 10000), "seconds": 10.0}
QUICK = {"sizes": (1, 2, 4), "counts": (50, 100, 200), "seconds": 0.4}
CORES = os.cpu_count() or 1
MOST_FOR_TORCH = 3000
"""DTensors for which torch's first call, whose time grows with their square, is waited for if ranks share cores."""


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(map(str, row))} |")


def show_fsdp(timings: list[Timing]) -> None:
    """Print the table of the model that FSDP2 shards, and what a DTensor costs there."""
    first = timings[0]
    print(f"\n## FSDP2: {first.dtensors} DTensors, {first.elements:,} elements, {first.ranks} ranks\n")
    by = {(timing.provider, timing.clipping): timing for timing in timings}
    rows = []
    for name in dict.fromkeys(timing.provider for timing in timings):
        row = [name]
        for clipping in (False, True):
            own = by[name, clipping]
            ratio = f"{by['torch', clipping].median_us / own.median_us:.1f}" if name == "gradclip" else ""
            row += [f"{own.median_us:.0f} ({own.p20_us:.0f} to {own.p80_us:.0f})", ratio]
        rows.append(row)
    markdown(("us: median (p20 to p80)", "unclipped", "torch / ours", "clipping", "torch / ours"), rows)
    for clipping, word in ((False, "unclipped"), (True, "clipping")):
        ours, bare, kernels = (by[x, clipping].median_us for x in ("gradclip", "bare all_reduce", "bare kernels"))
        print(f"\n{word}: {(ours - bare - kernels) / first.dtensors:.2f} us of host time a DTensor", end="")
        print(f" = ({ours:.0f} - {bare:.0f} all_reduce - {kernels:.0f} kernels) / {first.dtensors}")


def show_small(timings: list[Timing]) -> None:
    """Print the tables over ranks and numbers of DTensors."""
    ranks = list(dict.fromkeys(timing.ranks for timing in timings))
    counts = list(dict.fromkeys(timing.dtensors for timing in timings))
    header = ["DTensors", *(f"{n} rank{'s' if n > 1 else ''}" for n in ranks)]
    for what, field in (("", "median_us"), (", the first call", "first_us")):
        print(f"\n## Small DTensors, unclipped{what}: milliseconds of torch / of gradclip = ratio\n")
        by = {(x.ranks, x.dtensors, x.provider): getattr(x, field) for x in timings}
        markdown(
            header, ([n, *(_beside(by.get((r, n, "torch")), by[r, n, "gradclip"]) for r in ranks)] for n in counts)
        )
    print("\nEach further DTensor, in us (least squares):\n")
    rows = []
    for n in [n for n in ranks if n <= CORES]:
        us = slopes(timings, n)
        parts = (us["torch"], us["gradclip"], us["bare kernels"], us["gradclip"] - us["bare kernels"])
        rows.append([n, *(f"{x:.2f}" for x in parts)])
    markdown(("ranks", "torch", "gradclip", "of which kernels", "of which host"), rows)


def _beside(theirs: float | None, ours: float) -> str:
    if theirs is None:
        return f"not run / {ours / 1e3:.3g}"
    return f"{theirs / 1e3:.3g} / {ours / 1e3:.3g} = {theirs / ours:.1f}"


def show_matrix(found: list[Agreement]) -> None:
    """Print the table of layouts, the worst over the numbers of ranks in each cell."""
    ranks = list(dict.fromkeys(row.ranks for row in found))
    sizes = "/".join(map(str, ranks))
    print("\n## Layouts: float32 ulp off the float64 norm, in float32 / bfloat16; torch for p = 2\n")
    rows = []
    for layout in dict.fromkeys(row.layout for row in found):
        ours, theirs = ([x for x in found if (x.layout, x.provider) == (layout, y)] for y in ("gradclip", "torch"))
        cells = [" / ".join(_worst(ours, dtype, p) for dtype in DTYPES) for p in ORDERS]
        of_torch, made = "raises", ""
        if not any(row.error for row in theirs):
            of_torch = " / ".join(_worst(theirs, dtype, 2.0) for dtype in DTYPES)
            made = _collectives(theirs, ranks)
        rows.append([layout, *cells, _collectives(ours, ranks), of_torch, made])
    header = ["layout", *(f"p = {p:g}" for p in ORDERS), f"collectives on {sizes} ranks", "torch", "its collectives"]
    markdown(header, rows)
    own = [ulps for row in found if row.provider == "gradclip" for ulps in row.float32_ulps.values()]
    print(f"\n{len(own)} norms, the worst {max(own):.2f} float32 ulp off; each the same bits on every rank")


def _worst(found: list[Agreement], dtype: torch.dtype, p: float) -> str:
    word = str(dtype).removeprefix("torch.")
    ulps = [row.float32_ulps[f"{p:g}"] for row in found if row.dtype == word]
    return f"{max(ulps):.2g}" if max(ulps) < 100 else f"{max(ulps):,.0f}"  # noqa: PLR2004


def _collectives(found: list[Agreement], ranks: list[int]) -> str:
    return "/".join(str(max(row.collectives for row in found if row.ranks == n)) for n in ranks)


def show_traffic(found: list[Traffic], per_dtensor: dict[str, float]) -> None:
    """Print the table of large jobs."""
    print("\n## Large jobs\n")
    header = ("job", "ranks", "tensors a rank", "", "collectives", "payload, bytes", "log2(ranks), all", "host, us")
    rows = []
    for row in found:
        us = per_dtensor["torch" if row.provider == "torch" else "gradclip"] * row.tensors
        cells = (row.provider, row.collectives, row.payload_bytes, row.hops, f"{us:.0f}" if row.collectives else "")
        rows.append((row.job, row.ranks, row.tensors, *cells))
    markdown(header, rows)
    print("\ntime = collectives x launch + log2(ranks) x latency + payload / bandwidth + host")


def describe_machine() -> dict[str, object]:
    """Return what the figures belong to."""
    git = ["git", "-C", str(HOME), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    load = round(os.getloadavg()[0], 2)
    return machine() | {"threads": 1, "cores": CORES, "load": load, "commit": commit or "unknown"}


def write(path: Path, facts: dict[str, object], tables: Mapping[str, Sequence[NamedTuple]]) -> None:
    """Write a JSON file with a line for each row."""
    parts = [f'"{name}": {json.dumps(value)}' for name, value in facts.items()]
    for name, rows in tables.items():
        lines = ",\n  ".join(json.dumps(row._asdict()) for row in rows)
        parts.append(f'"{name}": [\n  {lines}\n ]')
    path.write_text("{\n " + ",\n ".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Measure, print, write, draw."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="below a minute: fewer ranks, DTensors and rounds")
    options.add_argument("--seconds", type=float, help="for each of the cases that are timed (10; quick: 0.4)")
    options.add_argument("--out", type=Path, help="the JSON file (results/distributed-TIME-COMMIT.json; quick: none)")
    options.add_argument("--plot", type=Path, help="the picture (docs/benchmarks/distributed.png; quick: none)")
    given = options.parse_args()
    plan = QUICK if given.quick else FULL
    seconds = given.seconds or plan["seconds"]
    facts = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    fsdp: list[Timing] = []
    over: list[Timing] = []
    matrix: list[Agreement] = []
    for ranks in plan["sizes"]:
        with RankPool(ranks, timeout=3600.0) as pool:
            if ranks == 2:  # noqa: PLR2004
                for clipping in (False, True):
                    fsdp += measure(pool, blocks, BLOCKS, clipping=clipping, seconds=3 * seconds)
                show_fsdp(fsdp)
            for count in plan["counts"]:
                with_torch = count <= MOST_FOR_TORCH or ranks <= CORES
                over += measure(pool, small, count, clipping=False, seconds=seconds, with_torch=with_torch)
            for layout in LAYOUTS:
                matrix += agreed(pool.run(agreements, layout))
    jobs, per_dtensor = traffic(), slopes(over, 1)
    show_small(over)
    show_matrix(matrix)
    show_traffic(jobs, per_dtensor)
    stamp = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H%M%S")
    out, plot = given.out, given.plot
    if not given.quick:
        out = out or HOME / "results" / f"distributed-{stamp}-{facts['commit']}.json"
        plot = plot or HOME.parent / "docs" / "benchmarks" / "distributed.png"
    if out is not None:
        tables = {"fsdp2": fsdp, "small": over, "layouts": matrix, "jobs": jobs}
        write(out, {"machine": facts, "us_per_dtensor_on_1_rank": per_dtensor}, tables)
    if plot is not None:
        from distributed_plot import draw  # noqa: PLC0415 -- matplotlib may be missing

        draw(over, plot, cores=CORES)


if __name__ == "__main__":
    main()
