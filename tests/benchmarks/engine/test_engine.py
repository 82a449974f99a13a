"""The engine's benchmark runs, refuses what is wrong, and planning grows as it should."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner, Result

import lego_kernels
from benchmarks.engine import diffusers_side, planner, ragged
from benchmarks.engine.__main__ import app
from benchmarks.engine.checks import Disagreement, check_kernels, check_velocities
from benchmarks.engine.masked import SHARES
from benchmarks.engine.models import ARCHITECTURES, Subject, build
from benchmarks.engine.ragged import MIXES
from benchmarks.engine.steps import StepRow, step_report
from benchmarks.engine.timing import Patience, Quartiles, take_turns
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import LANE_POLICIES, LanePolicy, ReplicaPace
from lego_serve.models.dtypes import multiplies_bf16
from lego_serve.models.ragged.batch_invariant import fuses_gelu, set_batch_invariant

CPU = torch.device("cpu")
MODELS = ("tiny", "tiny-flux")
OPS = [name for name in lego_kernels.__all__ if name.islower()]  # the classes there are what some of them take


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest) -> Subject:
    """A model of each family, in the dtype in which a small error shows."""
    return build(request.param, CPU, "float32")


@pytest.fixture(scope="module", params=MODELS)
def coarse(request: pytest.FixtureRequest) -> Subject:
    """The same in bfloat16, as they are served where the CPU multiplies it."""
    return build(request.param, CPU, "bfloat16")


@pytest.fixture(autouse=True)
def _rows_stay_stable() -> Iterator[None]:
    """A command chooses its process's batch invariance; other tests rely on it."""
    yield
    set_batch_invariant(True)


def run(folder: Path, *words: str) -> tuple[Result, list[dict[str, object]], str]:
    """A command's result, its rows and its markdown."""
    files = ["--json", str(folder / "rows.json"), "--markdown", str(folder / "table.md")]
    done = CliRunner().invoke(app, [*words, "--quick", *files])
    assert done.exit_code == 0, done.output
    [report] = json.loads((folder / "rows.json").read_text())
    return done, report["rows"], (folder / "table.md").read_text()


def test_steps_are_timed_for_every_family(tmp_path: Path) -> None:
    """Each model has a row for each number of lanes, and the file says what was checked."""
    done, rows, table = run(tmp_path, "steps")
    assert [(row["model"], row["lanes"]) for row in rows] == [(name, n) for name in MODELS for n in (1, 2)]
    for row in rows:
        for side in ("step_s", "over_alone", "over_single", "over_batch"):
            assert all(number > 0 for number in row[side].values())  # type: ignore[attr-defined]
    assert rows[0]["over_alone"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert table.count("\n| tiny") == 4
    assert "Batching" in table
    models = json.loads((tmp_path / "rows.json").read_text())[0]["models"]
    assert set(models) == set(MODELS)
    assert set(models["tiny"]["kernel_error_ulps"]) == set(OPS)
    assert "references" in done.output


def test_a_family_can_be_chosen(tmp_path: Path) -> None:
    """Only its model is built."""
    _, rows, _ = run(tmp_path, "steps", "--family", "flux")
    assert {row["model"] for row in rows} == {"tiny-flux"}


def test_ragged_batches_are_timed(tmp_path: Path) -> None:
    """Every row tells the ratio measured and what the pairs explain of it."""
    _, rows, table = run(tmp_path, "ragged", "--model", "tiny")
    assert [row["mix"] for row in rows] == [mix.name for mix in MIXES[:2]]
    for row in rows:
        assert row["left"] == pytest.approx(row["ratio"]["median"] / row["explained"])  # type: ignore[index,operator]
        assert row["pairs_ratio"] > 1  # type: ignore[operator]
    assert "target of 1.10" in table


def test_masked_steps_are_timed(tmp_path: Path) -> None:
    """Each share with the text computed and read; of a model whose entries keep no text, computed alone."""
    _, rows, table = run(tmp_path, "masked", "--model", "tiny", "--model", "tiny-flux")
    guided = [row for row in rows if row["model"] == "tiny"]
    assert [(row["share"], row["reads_text"]) for row in guided] == [(s, r) for r in (False, True) for s in SHARES]
    assert {row["reads_text"] for row in rows if row["model"] != "tiny"} == {False}
    for computed, read in zip(guided[: len(SHARES)], guided[len(SHARES) :], strict=True):
        assert computed["over_computed"] == {"median": 1.0, "low": 1.0, "high": 1.0}
        assert int(str(read["rows"])) < int(str(computed["rows"]))
    assert table.count("| read |") == len(SHARES)


def test_the_planner_is_timed(tmp_path: Path) -> None:
    """Every order has a row for each number of lanes; the fewest lanes are the measure of growth."""
    _, rows, table = run(tmp_path, "planner")
    assert [(row["order"], row["lanes"]) for row in rows] == [(order, n) for order in LANE_POLICIES for n in (64, 256)]
    assert all(row["growth"] == row["growth_before"] == 1.0 for row in rows if row["lanes"] == 64)
    assert all(0 < row["growth"] == row["growth_before"] for row in rows if row["lanes"] == 256)  # type: ignore[operator]
    assert "n log n" in table


def test_weights_laid_out_ahead_of_time_are_timed(tmp_path: Path) -> None:
    """One layer with as many sides as torch has libraries here, each giving the same numbers."""
    _, [row], table = run(tmp_path, "prepacked")
    assert (row["inputs"], row["outputs"], row["rows"]) == (128, 384, 192)
    for library, available in (("one_dnn", torch.backends.mkldnn), ("mkl", torch.backends.mkl)):
        assert (row[library] is not None) == available.is_available()
    assert "ahead of time" in table


def test_gelu_is_timed_where_there_is_one_pass(tmp_path: Path) -> None:
    """Two numbers of rows of one layer, no further from float64 than two passes; else no row and the reason."""
    _, rows, table = run(tmp_path, "gelu")
    assert [row["rows"] for row in rows] == ([32, 96] if fuses_gelu() else [])
    assert all(row["off"] <= 1.1 for row in rows)  # type: ignore[operator]
    assert ("does not multiply bf16" in table) == (not fuses_gelu())


@pytest.mark.parametrize("words", [("--model", "nothing"), ("--device", "tpu"), ("--family", "sdxl")])
def test_what_is_unknown_is_refused(words: tuple[str, str]) -> None:
    """A wrong word is a usage error, before anything is built."""
    assert CliRunner().invoke(app, ["steps", *words]).exit_code == 2


@pytest.mark.parametrize("name", OPS)
def test_a_wrong_kernel_is_found(subject: Subject, name: str) -> None:
    """An op that is off by a thousandth does not pass; the right ones do."""
    check_kernels(subject)
    right = {op: getattr(lego_kernels, op) for op in OPS}
    wrong = SimpleNamespace(**right | {name: lambda **given: right[name](**given) * 1.001})
    with pytest.raises(Disagreement, match=name):
        check_kernels(subject, wrong)


@pytest.mark.parametrize("name", OPS)
def test_a_wrong_kernel_is_found_in_half_precision(coarse: Subject, name: str) -> None:
    """An op that is off by a fifth does not pass; the right ones do."""
    check_kernels(coarse)
    right = {op: getattr(lego_kernels, op) for op in OPS}
    wrong = SimpleNamespace(**right | {name: lambda **given: right[name](**given) * 1.2})
    with pytest.raises(Disagreement, match=name):
        check_kernels(coarse, wrong)


def test_a_kernel_that_answers_nan_is_found(subject: Subject) -> None:
    """No comparison with NaN holds, so it must not slip through one."""
    right = {op: getattr(lego_kernels, op) for op in OPS}
    wrong = SimpleNamespace(**right | {"gated_residual": lambda **given: right["gated_residual"](**given) * torch.nan})
    with pytest.raises(Disagreement, match="nan"):
        check_kernels(subject, wrong)


def test_nothing_is_timed_with_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command ends with an error and writes no file."""
    right = lego_kernels.norm_modulate
    off = 1.0 if multiplies_bf16() else 0.01  # the command runs in the dtype that is served
    monkeypatch.setattr(lego_kernels, "norm_modulate", lambda **given: right(**given) + off)
    file = tmp_path / "rows.json"
    done = CliRunner().invoke(app, ["ragged", "--model", "tiny", "--quick", "--json", str(file)])
    assert done.exit_code == 1
    assert "Nothing was timed" in done.output
    assert not file.exists()


def test_velocities_are_held_against_diffusers(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides say the same; were ours a hundredth longer, it would be refused."""
    assert check_velocities(subject, 4) < 1e-4
    said = type(subject.backbone).velocity
    monkeypatch.setattr(type(subject.backbone), "velocity", lambda self, lanes: [v * 1.01 for v in said(self, lanes)])
    with pytest.raises(Disagreement, match="velocity"):
        check_velocities(subject, 4)


def test_velocities_are_held_against_diffusers_in_half_precision(
    coarse: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides round differently after every layer; were ours a fifth longer, it would be refused."""
    assert check_velocities(coarse, 4) < 0.02
    said = type(coarse.backbone).velocity
    monkeypatch.setattr(type(coarse.backbone), "velocity", lambda self, lanes: [v * 1.2 for v in said(self, lanes)])
    with pytest.raises(Disagreement, match="velocity"):
        check_velocities(coarse, 4)


def test_the_compiled_side_leaves_the_eager_one_alone(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin's blocks are what the compiler answers, over the same weights; the original keeps its own."""
    made: list[torch.nn.Module] = []

    def fake_compile(block: torch.nn.Module, **_: object) -> torch.nn.Module:
        made.append(torch.nn.Sequential(block))
        return made[-1]

    monkeypatch.setattr(torch, "compile", fake_compile)
    before = list(subject.transformer.transformer_blocks)
    twin = diffusers_side.compiled(subject.transformer)
    assert list(twin.transformer_blocks) == made[: len(before)]
    assert list(subject.transformer.transformer_blocks) == before
    assert {id(p) for p in twin.parameters()} == {id(p) for p in subject.transformer.parameters()}


def test_real_sizes_are_the_real_ones() -> None:
    """Built without memory, they have the parameters their names promise, in billions."""
    with torch.device("meta"):
        for name, billions in (("sd3-medium", 2.03), ("sd35-medium", 2.24), ("flux-dev", 11.90)):
            made = build_empty(name)
            assert sum(p.numel() for p in made.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)


def build_empty(name: str) -> torch.nn.Module:
    """The transformer of a model of this name."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    architecture = ARCHITECTURES[name]
    made: torch.nn.Module = {"sd3": SD3Transformer2DModel, "flux": FluxTransformer2DModel}[architecture.family](
        **architecture.config or {}
    )
    return made


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_a_mix_has_the_tokens_of_its_uniform_batch(mix: ragged.Mix) -> None:
    """Else the linear layers alone would make a difference."""
    assert sum(h * w for h, w in mix.sizes) == len(mix.sizes) * mix.uniform[0] * mix.uniform[1]
    assert mix.scaled(4).sizes[0] == (4 * mix.sizes[0][0], 4 * mix.sizes[0][1])


def test_a_table_says_where_batching_does_not_pay() -> None:
    """A lane at 0.97 of its time alone is named, one at 0.5 is not."""
    even = Quartiles(1.0, 1.0, 1.0)
    rows = [StepRow("m", 1024, 4096, n, 4096 * n, even, Quartiles(alone, alone, alone), even, even, None)
            for n, alone in ((1, 1.0), (2, 0.97), (4, 0.5))]  # fmt: skip
    report = step_report(rows)
    assert report.remarks == [
        "Batching does not pay (a lane takes 0.95 or more of its time alone): m at 1024 x 1024 with 2 lanes."
    ]
    assert "no gain" in report.rows[1][6]


def test_sides_take_turns() -> None:
    """After one round to warm up they run A B A B, as many rounds as asked for."""
    ran: list[str] = []
    times = take_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, CPU, Patience(3, 0.0))
    assert "".join(ran) == "abababab"
    assert [len(t) for t in times.values()] == [3, 3]


@dataclass
class Watched:
    """A lane that counts how often an order looks at it."""

    seconds: float
    weight: float = 2.0
    looks: int = 0

    @property
    def added_s(self) -> float:
        """When it came."""
        self.looks += 1
        return self.seconds

    @property
    def deadline_s(self) -> float | None:
        """When it is due."""
        self.looks += 1
        return 100 - self.seconds

    @property
    def left(self) -> tuple[float, float, float]:
        """What it still needs."""
        self.looks += 1
        return 3.0, 10.0, 100.0


@pytest.mark.parametrize("order", LANE_POLICIES.values(), ids=LANE_POLICIES.keys())
def test_an_order_looks_at_each_lane_a_bounded_number_of_times(order: LanePolicy) -> None:
    """Reading the lanes is linear in them, however many there are; the rest is one sort."""
    for count in (64, 4096):
        lanes = [Watched(i * 37 % count / count) for i in range(count)]
        assert len(order(lanes, 50.0, ReplicaPace(planner.RATES, 0.1))) == count
        assert max(lane.looks for lane in lanes) <= 3


def fastest_plan(order: str, count: int, repeats: int) -> float:
    """Seconds of the fastest of some plans of as many lanes."""
    batcher = StepBatcher(LANE_POLICIES[order], StepLimits(), planner.RATES)
    for lane in islice(planner.random_lanes(), count):
        batcher.add(lane)
    times: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        batcher.plan(count * 1e-3)
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.mark.parametrize("order", LANE_POLICIES)
def test_planning_does_not_grow_with_the_square_of_lanes(order: str) -> None:
    """Sixteen times the lanes take 27 times the time by n log n and 256 times by their square; 80 tells them apart."""
    times = [fastest_plan(order, count, repeats) for count, repeats in ((64, 200), (1024, 40))]
    assert times[1] < 80 * times[0]


def test_quartiles_of_numbers() -> None:
    """The middle and the borders of its half, as text too."""
    numbers: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0)
    assert Quartiles.of(numbers) == Quartiles(3.0, 2.0, 4.0)
    assert Quartiles.of(numbers).told(10, digits=0) == "30 (20 to 40)"
