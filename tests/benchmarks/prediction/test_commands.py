"""The commands from a recording to the comparison, with simulated servers in the place of real ones."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.prediction import commands
from benchmarks.prediction.__main__ import app
from benchmarks.prediction.costs import Profile, read_profile
from benchmarks.prediction.documents import read_run
from benchmarks.prediction.recording import write_recording
from benchmarks.prediction.systems.lego import ServerLayout
from benchmarks.prediction.systems.simulation import Simulation
from tests.support.prediction.profiles import calibration, monolith_costs, profile, server_costs


def done(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(word) for word in words])
    return found.exit_code, " ".join(found.output.split())


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """A folder with a fitted profile and a committed prediction of suite multi, made long ago."""
    groups = [*calibration(server_costs(), monolith_costs(1)), *calibration(server_costs(), monolith_costs(2))]
    write_recording(tmp_path / "recording.jsonl", groups)
    fit = ("fit", tmp_path / "recording.jsonl", "--out", tmp_path / "profile.json", "--text-rows", 77)
    assert done(*fit)[0] == 0
    predict = ("predict", "multi", "--profile", tmp_path / "profile.json", "--out", tmp_path, "--quick")
    assert done(*predict)[0] == 0
    file = tmp_path / "prediction.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"predicted_at": "2020-01-01T00:00:00+00:00"}))
    who = {"GIT_COMMITTER_DATE": "2020-01-02T00:00:00Z", "GIT_AUTHOR_DATE": "2020-01-02T00:00:00Z"}
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", file.name), (*name, "commit", "-qm", "predict")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True, env={**os.environ, **who})
    return tmp_path


def run_on(costs: Profile, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run suite multi on servers of these costs."""
    simulation = Simulation(costs, ServerLayout())
    monkeypatch.setattr(commands, "pin", lambda cores: list(range(cores)))
    monkeypatch.setattr(commands, "goodput_systems", lambda *_: simulation.goodput_systems())
    return done("run", "multi", "--prediction", folder / "prediction.json", "--out", out)


def test_servers_of_the_costs_that_were_recorded_do_as_predicted(
    predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a recording over the fit and the prediction to the comparison, all is within the bounds."""
    assert read_profile(predicted / "profile.json").server.crowding == pytest.approx(0.1, abs=0.01)
    assert run_on(profile(), predicted, tmp_path / "run", monkeypatch)[0] == 0
    assert read_run(tmp_path / "run").quick
    code, text = done("compare", predicted / "prediction.json", tmp_path / "run", "--markdown", tmp_path / "table.md")
    assert code == 0, text
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[0].startswith("| suite | quantity | predicted | measured | error | bound |")
    assert len(table) == 2 + 21
    assert all("| pass |" in line for line in table[2:])


def test_slower_servers_do_not(predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of lego_serve that takes half as long again is found out, and the exit code says so."""
    step = server_costs().step
    slow = profile(step=type(step)(1.5 * step.row_s, 1.5 * step.pair_s, 1.5 * step.constant_s))
    assert run_on(slow, predicted, tmp_path / "run", monkeypatch)[0] == 0
    code, text = done("compare", predicted / "prediction.json", tmp_path / "run")
    assert code == 1
    assert "FAIL" in text


def test_what_is_not_known_is_said_with_the_nearest_name(predicted: Path, tmp_path: Path) -> None:
    """A suite, and one that is not in the prediction."""
    code, text = done("predict", "mixd", "--profile", predicted / "profile.json", "--out", tmp_path)
    assert code == 2
    assert "mixed" in text
    code, text = done("run", "burst", "--prediction", predicted / "prediction.json", "--out", tmp_path)
    assert code == 2
    assert "multi" in text
