"""The ControlNet benchmark measures what it says."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.addons import controlnet_steps


@pytest.mark.parametrize(("model", "residuals", "width"), [("tiny", 3, 128), ("tiny-flux", 2, 128)])
def test_a_quick_run_writes_its_table(model: str, residuals: int, width: int, tmp_path: Path) -> None:
    """Times of all three sides, and the bytes of the residuals that are added."""
    app = typer.Typer()
    app.command()(controlnet_steps.main)
    ran = CliRunner().invoke(app, ["--quick", "--model", model, "--json", str(tmp_path / "out.json")])
    assert ran.exit_code == 0, ran.output
    (row,) = json.loads((tmp_path / "out.json").read_text())[0]["rows"]
    branches = 2 if model == "tiny" else 1
    assert row["residuals"] == residuals
    assert row["bytes"] in {branches * 36 * width * residuals * size for size in (2, 4)}
    assert min(row[side]["median"] for side in ("plain_s", "own_s", "controlled_s", "over_both")) > 0
