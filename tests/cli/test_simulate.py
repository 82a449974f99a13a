"""``lego-serve simulate``."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lego_serve.cli.main import app
from lego_serve.cluster_files import read_cluster, read_trace
from lego_serve.errors import ConfigError
from tests.support.cluster.settings import CONFIGS

CLUSTER = CONFIGS / "h800_8.yaml"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Twenty requests, four a second."""
    path = tmp_path / "trace.jsonl"
    lines = [{"timestamp": 250 * n, "payload": {}, "extra": {"workflow": "ABC"[n % 3]}} for n in range(20)]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return path


def test_policies_are_compared_and_the_same_bytes_come_again(trace: Path, tmp_path: Path) -> None:
    """Two policies at two rates; the numbers go to a JSON file, the charts to an HTML file."""
    texts = []
    for number in range(2):
        out, html = tmp_path / f"{number}.json", tmp_path / f"{number}.html"
        options = [
            "--cluster",
            str(CLUSTER),
            "--policy",
            "lego",
            "--policy",
            "diflow",
            "--rates",
            "6",
            "--cost-error",
            "0.1",
        ]
        done = CliRunner().invoke(app, ["simulate", str(trace), *options, "--json", str(out), "--html", str(html)])
        assert done.exit_code == 0, done.output
        texts.append(out.read_text() + html.read_text())
    assert texts[0] == texts[1]
    found = json.loads((tmp_path / "0.json").read_text())
    assert [len(rows) for rows in found["runs"].values()] == [2, 2]
    assert found["runs"]["lego"][0]["attainment"] == 1.0


def test_an_unknown_policy_is_refused_by_name(trace: Path) -> None:
    """With the nearest one."""
    done = CliRunner().invoke(app, ["simulate", str(trace), "--cluster", str(CLUSTER), "--policy", "legos"])
    assert isinstance(done.exception, ConfigError)
    assert "legos; did you mean lego?" in done.exception.message


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("{", "is not JSON"),
        ("[]", "is an object"),
        ('{"timestamp": "x", "extra": {"workflow": "A"}}', "timestamp: a number"),
        ('{"timestamp": 1, "extra": {"workflow": "Z"}}', "extra.workflow: the cluster has no workflow 'Z'"),
        ('{"timestamp": 1, "extra": {"workflow": "A", "slo_ms": -1}}', "extra.slo_ms"),
    ],
)
def test_a_wrong_line_of_a_trace_is_named(trace: Path, line: str, error: str) -> None:
    """File, line and field in one line."""
    trace.write_text(trace.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=error) as caught:
        read_trace(trace, read_cluster(CLUSTER).setting())
    assert str(caught.value).startswith(f"{trace}:22: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("gpus: 8", "gpus: 0", "gpus: Input should be greater than or equal to 1"),
        ("memory_gib: 72", "memory_gib: 20", "its models need"),
        ("backbone: schnell, steps: 4", "backbone: schnel, steps: 4", "no profile of model schnel"),
        ("steps: 4", "steps: 0", "workflows.A.steps"),
        ("gpus: 8", "gpu: 8", "gpus: Field required"),
    ],
)
def test_a_wrong_field_of_a_cluster_is_named(tmp_path: Path, before: str, after: str, error: str) -> None:
    """File, line and field in one line."""
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER.read_text().replace(before, after))
    with pytest.raises(ConfigError, match=error) as caught:
        read_cluster(path)
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in str(caught.value)


def test_every_cluster_file_is_right() -> None:
    """Those of the repository can be read."""
    assert [read_cluster(path).gpus for path in sorted(CONFIGS.glob("*.yaml"))] == [8, 16]


def tiered(tmp_path: Path, tiers: str) -> Path:
    """The cluster with tiers of its workflow A."""
    path = tmp_path / "tiered.yaml"
    path.write_text(CLUSTER.read_text().replace("  A: {", f"  A: {{tiers: {tiers}, "))
    return path


def test_a_tier_is_simulated_with_its_own_steps_and_the_time_of_all(tmp_path: Path) -> None:
    """Drawn by its share, or named by a trace; who takes less work keeps the deadline of the whole."""
    setting = read_cluster(tiered(tmp_path, "{balanced: {steps: 2, share: 0.5}}")).setting()
    whole, tier = setting.work("A"), setting.work("A:balanced")
    assert (whole.shape.steps, tier.shape.steps) == (4, 2)
    assert whole.paired_s - tier.paired_s == pytest.approx(2 * whole.step_s)
    assert setting.slo_s("A") == setting.slo_s("A:balanced")
    assert setting.shares["A"] == setting.shares["A:balanced"] == pytest.approx(0.225)
    path = tmp_path / "trace.jsonl"
    extras: list[dict[str, str]] = [{"workflow": "A", "tier": tier} for tier in ("exact", "balanced")]
    path.write_text("\n".join(json.dumps({"timestamp": 0, "extra": extra}) for extra in extras))
    assert [each.workflow for each in read_trace(path, setting)] == ["A", "A:balanced"]


def test_a_tier_is_simulated_with_its_own_branches_rows_and_model(tmp_path: Path) -> None:
    """A student without guidance pays one branch, and sparse steps their part of the rows; the deadline is the same."""
    turbo = "{turbo: {steps: 2, share: 0.2, branches: 1, backbone: TWO}, fast: {steps: 4, share: 0.2, rows: 0.5}}"
    cluster = read_cluster(CLUSTER)
    other = min(cluster.models.keys() - {cluster.workflows["A"].backbone})
    setting = read_cluster(tiered(tmp_path, turbo.replace("TWO", other))).setting()
    whole, student, sparse = (setting.work(name) for name in ("A", "A:turbo", "A:fast"))
    assert (student.shape.branches, student.shape.backbone, whole.shape.branches) == (1, other, 2)
    assert other in student.shape.models
    assert sparse.step_s - setting.costs.hop_s == pytest.approx((whole.step_s - setting.costs.hop_s) / 2)
    assert student.shape.steps * student.shape.branches == whole.shape.steps * whole.shape.branches / 4
    assert len({setting.slo_s(name) for name in ("A", "A:turbo", "A:fast")}) == 1


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        ("{turbo: {steps: 2, share: 0.1, rows: 0}}", "rows"),
        ("{turbo: {steps: 2, share: 0.1, branches: 3}}", "branches"),
        ("{turbo: {steps: 2, share: 0.1, backbone: nobody}}", "no profile of model nobody"),
        ("{balanced: {steps: 5, share: 0.5}}", "tier balanced has 5 steps, more than 4"),
        ("{high: {steps: 2, share: 0.6}, fast: {steps: 1, share: 0.6}}", "more than all of its requests"),
        ("{quick: {steps: 2, share: 0.6}}", "quick"),
    ],
)
def test_tiers_that_cannot_be_are_refused(tmp_path: Path, tiers: str, said: str) -> None:
    """With the file and the line."""
    with pytest.raises(ConfigError, match=said):
        read_cluster(tiered(tmp_path, tiers))
