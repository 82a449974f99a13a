"""Predictions of whole suites: deterministic, and of exactly the requests that a run sends."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.prediction.__main__ import app
from benchmarks.prediction.committed import committed_at
from benchmarks.prediction.costs import Profile, write_profile
from benchmarks.prediction.documents import Prediction, Run, digest_of, read_prediction, read_run, write_run
from benchmarks.prediction.observation import Observation, Sent, plan_digest
from benchmarks.prediction.observe import Watch, observe_goodput, observe_mixed
from benchmarks.prediction.suites import FACTORS, SEED, SUITES
from benchmarks.prediction.systems.lego import ServerLayout
from benchmarks.prediction.systems.simulation import Simulation
from lego_serve.core.costs import Rates
from loadgen.goodput.plan import GoodputSuite
from loadgen.mixed.hooks import SuiteHooks
from loadgen.mixed.workload import Workload
from tests.support.prediction.profiles import profile
from tests.support.prediction.worlds import request

PLAIN = [name for name in SUITES if name != "addons"]


def observed(name: str, costs: Profile, limit_rps: float | None = None) -> Observation:
    suite, simulation = SUITES[name], Simulation(costs, ServerLayout(), SEED)
    watch = Watch(simulation.clock, lambda line: None)
    if isinstance(suite, GoodputSuite):
        return observe_goodput(suite, simulation.goodput_systems(), watch, quick=True, limit_rps=limit_rps)
    hooks = SuiteHooks(Workload(suite, SEED))
    return observe_mixed(suite, simulation.mixed_systems(), hooks, watch, quick=True, limit_rps=limit_rps)


@pytest.mark.parametrize("name", PLAIN)
def test_a_run_at_the_predicted_rates_sends_what_was_predicted(name: str) -> None:
    """On servers of another speed: plan, rates and loads are the prediction's; what comes of them is not."""
    predicted = observed(name, profile())
    measured = observed(name, profile(step=Rates(60e-6, 90e-9, 0.006)), predicted.limit_rps)
    assert measured.plan == predicted.plan
    assert [load.rate_rps for load in measured.loads] == [load.rate_rps for load in predicted.loads]
    assert measured.at(1.0).lego.mean_s != predicted.at(1.0).lego.mean_s


@pytest.mark.parametrize("name", PLAIN)
def test_a_prediction_is_deterministic_and_sane(name: str) -> None:
    """The same profile predicts the same; shares are shares and percentiles are in order."""
    predicted = observed(name, profile())
    assert predicted == observed(name, profile())
    assert set(FACTORS) <= {load.factor for load in predicted.loads}
    for load in predicted.loads:
        for each in (load.baseline, load.lego):
            assert 0.0 <= each.attainment <= 1.0
            assert 0.0 < each.p50_s <= each.p95_s
    assert predicted.ratio is not None


def test_another_rate_or_request_is_another_plan() -> None:
    """So is another time, round or share of the limit."""
    plain = Sent(1, 0.5, [request()], [1.0])
    changed = [
        replace(plain, due_s=[1.001]),
        replace(plain, requests=[request(steps=11)]),
        replace(plain, round_number=2),
        replace(plain, factor=0.8),
    ]
    assert len({plan_digest("mixed", [each]) for each in (plain, *changed)} | {plan_digest("burst", [plain])}) == 6
    assert plan_digest("mixed", [plain]) == plan_digest("mixed", [replace(plain, due_s=[1.0 + 1e-9])])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with a profile and a prediction of suite burst, committed."""
    write_profile(tmp_path / "profile.json", profile())
    words = ["predict", "burst", "--profile", str(tmp_path / "profile.json"), "--out", str(tmp_path), "--quick"]
    done = CliRunner().invoke(app, [*words, "--held-out", "burst"])
    assert done.exit_code == 0, done.output
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "prediction.json"], [*who, "commit", "-qm", "predict"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def measured(folder: Path, **changes: object) -> Path:
    """A run that found exactly what was predicted, long after the prediction."""
    prediction = read_prediction(folder / "prediction.json")
    found = Run(
        "2099-01-01T00:00:00+00:00", True, digest_of(folder / "prediction.json"), prediction.suites["burst"], {}
    )
    write_run(folder / "run", replace(found, **changes))  # type: ignore[arg-type]
    return folder / "run"


def compared(folder: Path, run: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compare", str(folder / "prediction.json"), str(run)])
    return done.exit_code, " ".join(done.output.split())


def test_a_committed_prediction_is_compared_with_a_later_run(folder: Path) -> None:
    """What was measured as predicted passes; twice the latency does not, and the exit code says so."""
    assert compared(folder, measured(folder))[0] == 0
    found = read_run(measured(folder)).observation
    slow = tuple(replace(load, lego=replace(load.lego, mean_s=2 * load.lego.mean_s)) for load in found.loads)
    code, text = compared(folder, measured(folder, observation=replace(found, loads=slow)))
    assert code == 1
    assert "FAIL" in text


def test_an_uncommitted_or_changed_prediction_is_refused(folder: Path) -> None:
    """The file must be in a commit as it is."""
    file = folder / "prediction.json"
    assert committed_at(file)
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document))
    assert committed_at(file) is None
    code, text = compared(folder, measured(folder))
    assert code == 2
    assert "not committed" in text


def test_a_profile_of_a_held_out_suite_predicts_nothing(tmp_path: Path) -> None:
    """The command ends with a line that says why."""
    write_profile(tmp_path / "profile.json", replace(profile(), fitted_from=("burst",)))
    words = ["predict", "burst", "--profile", str(tmp_path / "profile.json"), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--held-out", "burst"])
    assert done.exit_code == 2
    assert "was fitted from burst" in " ".join(done.output.split())


def test_files_are_read_as_they_were_written(folder: Path) -> None:
    """A prediction and a run."""
    prediction = read_prediction(folder / "prediction.json")
    assert isinstance(prediction, Prediction)
    assert (prediction.held_out, prediction.fitted_from) == (("burst",), ("calibration",))
    assert read_run(measured(folder)).observation == prediction.suites["burst"]


def test_add_ons_are_loaded_by_both_systems(tmp_path: Path) -> None:
    """Suite addons is predicted from the names and sizes of its add-ons; slow loads are part of it."""
    for number in range(200):
        adapters = tmp_path / "pool" / "adapters"
        adapters.mkdir(parents=True, exist_ok=True)
        (adapters / f"a{number:03}.safetensors").write_bytes(b"0" * 100)
    for number in range(20):
        net = tmp_path / "pool" / "controlnets" / f"n{number:02}"
        net.mkdir(parents=True)
        (net / "diffusion_pytorch_model.safetensors").write_bytes(b"0" * 1000)
    write_profile(tmp_path / "profile.json", profile())
    words = ["predict", "addons", "--profile", str(tmp_path / "profile.json"), "--out", str(tmp_path), "--quick"]
    done = CliRunner().invoke(app, [*words, "--pool", str(tmp_path / "pool")])
    assert done.exit_code == 0, done.output
    found = read_prediction(tmp_path / "prediction.json").suites["addons"]
    assert found.ratio is not None
    assert found.ratio > 1.0
