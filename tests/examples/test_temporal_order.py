"""The temporal-order example: its data, what clipping changes in it, what it prints, and how it refuses."""

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Generator

from processes import run

SCRIPT = Path(__file__).parents[2] / "examples" / "temporal_order.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("length", [10, 20, 25, 200])
def test_two_symbols_that_count_stand_where_the_paper_puts_them(example: ModuleType, length: int) -> None:
    symbols, classes = example.draw(2000, length, Generator().manual_seed(0))
    assert symbols.shape == (length, 2000)
    seen: list[set[int]] = [set(), set()]
    for sequence, cls in zip(symbols.t().tolist(), classes.tolist(), strict=True):
        places = [place for place, symbol in enumerate(sequence) if symbol in {0, 1}]
        first, second = places
        assert cls == ["AA", "AB", "BA", "BB"].index("".join("AB"[sequence[place]] for place in places))
        seen[0].add(first)
        seen[1].add(second)
    tenth, half = length // 10, length // 2
    assert seen == [set(range(tenth, 2 * tenth)), set(range(half, half + tenth))]


def test_classes_and_distractors_are_about_equally_frequent(example: ModuleType) -> None:
    symbols, classes = example.draw(4000, 20, Generator().manual_seed(0))
    assert all(900 < count < 1100 for count in classes.bincount(minlength=4).tolist())
    distractors = symbols[symbols > 1]
    assert len(distractors) == 18 * 4000
    assert all(17_400 < count < 18_600 for count in (distractors - 2).bincount(minlength=4).tolist())


def test_a_seed_stands_for_the_same_sequences_and_weights(example: ModuleType) -> None:
    def sequences(seed: int) -> torch.Tensor:
        symbols, classes = example.draw(50, 20, Generator().manual_seed(seed))
        return torch.cat([symbols, classes[None]])

    def weights(seed: int) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in example.build(seed).parameters()])

    before = torch.get_rng_state()
    for drawn in (sequences, weights):
        assert torch.equal(drawn(3), drawn(3))
        assert not torch.equal(drawn(3), drawn(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_recurrent_weights_have_the_spectral_radius_of_the_paper(example: ModuleType) -> None:
    recurrent = example.build(0).rnn.weight_hh_l0.detach().double()
    assert recurrent.shape == (50, 50)
    assert torch.linalg.eigvals(recurrent).abs().max().item() == pytest.approx(0.95, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.usefixtures("one_thread")
def test_the_task_is_solved_with_clipping_alone(example: ModuleType, seed: int) -> None:
    settings = {"length": 20, "lr": 0.3, "steps": 600}
    without, largest_norm = example.run(seed, max_norm=math.inf, **settings)
    assert without < 0.5
    assert largest_norm > 5
    clipped, _ = example.run(seed, max_norm=1.0, **settings)
    assert clipped >= example.SOLVED


@pytest.mark.usefixtures("one_thread")
def test_an_infinite_bound_measures_and_changes_nothing(example: ModuleType) -> None:
    ours, plain = example.build(0), example.build(0)
    largest = example.train(ours, Generator().manual_seed(0), max_norm=math.inf, length=20, lr=0.3, steps=3)
    optimizer, generator, norms = torch.optim.SGD(plain.parameters(), lr=0.3), Generator().manual_seed(0), []
    for _ in range(3):
        symbols, classes = example.draw(20, 20, generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(symbols), classes).backward()
        norms.append(math.hypot(*(g for p in plain.parameters() for g in p.grad.flatten().tolist())))
        optimizer.step()
    assert largest == pytest.approx(max(norms), rel=1e-6)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), plain.parameters(), strict=True))


def test_the_script_prints_a_table_and_a_verdict() -> None:
    result = run(SCRIPT, "--steps", 2, "--seeds", 3, "--length", 10, PYTHONWARNINGS="error")
    assert (result.returncode, result.stderr) == (0, "")
    *header, first, second, third, verdict = result.stdout.splitlines()
    assert header[1].split() == ["seed", "accuracy", "largest", "norm", "accuracy"]
    for seed, row in enumerate((first, second, third)):
        assert len(row) == len(header[1])
        number, without, norm, clipped = row.split()
        assert int(number) == seed
        assert 0 <= float(without.removesuffix("%")) < 99
        assert 0 <= float(clipped.removesuffix("%")) < 99
        assert float(norm) > 0
    assert verdict == "solved without clipping: 0 of 3, with clipping: 0 of 3"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--length 9", "argument --length: must be a whole number from 10 to 200, got '9'"),
        ("--lr nan", "argument --lr: must be a number from 1e-06 to 1e+06, got 'nan'"),
        ("--max-norm 0", "argument --max-norm: must be a number from 1e-06 to 1e+06, got '0'"),
        ("--steps 1e3", "argument --steps: must be a whole number from 1 to 100000, got '1e3'"),
        ("--seeds none", "argument --seeds: must be a whole number from 1 to 1000, got 'none'"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(
    example: ModuleType, capsys: pytest.CaptureFixture[str], arguments: str, complaint: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        example.main(arguments.split())
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith(f": {complaint}\n")
