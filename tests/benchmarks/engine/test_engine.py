"""The benchmark of the engine runs each of its commands, and refuses what is unknown."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import lego_kernels
from benchmarks.engine import ragged
from benchmarks.engine.commands import app
from benchmarks.engine.masked import SHARES
from benchmarks.engine.models import ARCHITECTURES
from benchmarks.engine.ragged import MIXES
from benchmarks.engine.steps import StepRow, step_report
from benchmarks.engine.timing import Quartiles
from lego_serve.core.scheduling.ordering import LANE_POLICIES
from lego_serve.models.ragged.batch_invariant import fuses_gelu
from tests.support.benchmarks import run

MODELS = ("tiny", "tiny-flux")
OPS = [name for name in lego_kernels.__all__ if name.islower()]  # the classes there are what some of them take


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
    assert all(row["error_ratio"] <= 1.1 for row in rows)  # type: ignore[operator]
    assert ("does not multiply bf16" in table) == (not fuses_gelu())


@pytest.mark.parametrize("words", [("--model", "nothing"), ("--device", "tpu"), ("--family", "sdxl")])
def test_what_is_unknown_is_refused(words: tuple[str, str]) -> None:
    """A wrong word is a usage error, before anything is built."""
    assert CliRunner().invoke(app, ["steps", *words]).exit_code == 2


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
    rows = [
        StepRow("m", 1024, 4096, n, 4096 * n, even, Quartiles(alone, alone, alone), even, even, None)
        for n, alone in ((1, 1.0), (2, 0.97), (4, 0.5))
    ]
    report = step_report(rows)
    assert report.remarks == [
        "Batching does not pay (a lane takes 0.95 or more of its time alone): m at 1024 x 1024 with 2 lanes."
    ]
    assert "no gain" in report.rows[1][6]
