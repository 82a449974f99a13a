from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen.traces.formats import AUTO, read_records
from loadgen.traces.gaps import Gaps
from loadgen.traces.payloads import Asking, to_records
from loadgen.traces.profiles import PROFILES
from loadgen.traces.record import write_native
from loadgen.traces.statistics import describe
from loadgen.traces.synth import synthesise

PUBLISHED = Path("../shared/data/traces")
FILES = {
    "diflow": "diflow_rs4.0.txt",
    "gentd26": "gentd26_lora_requests.csv",
    "azure-conv": "azure_llm_2023_conv.csv",
    "azure-code": "azure_llm_2023_code.csv",
    "mooncake": "mooncake_conversation_first4000.jsonl",
}
# Of the published files: CV of the gaps, dispersion of the counts by window, share of the most popular workflow and
# of the ten most popular.
KNOWN: dict[str, tuple[float, dict[str, float], float, float]] = {
    "diflow": (1.098, {"1s": 1.13, "10s": 0.9}, 0.449, 1.0),
    "gentd26": (12.0, {"60s": 3.75, "600s": 27.4, "3600s": 139.9}, 0.307, 0.8665),
    "azure-conv": (1.094, {"1s": 1.385, "10s": 3.86}, 1.0, 1.0),
    "azure-code": (13.15, {"1s": 13.2, "10s": 71.6, "60s": 164.0}, 1.0, 1.0),
    "mooncake": (2.866, {"1s": 7.18}, 1.0, 1.0),
}


def described(name: str, requests: int | None = None) -> dict[str, Any]:
    profile = PROFILES[name]
    arrivals = synthesise(profile, requests or profile.requests, None, 0)
    found: dict[str, Any] = describe(list(to_records(arrivals, Asking(), 0)))
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_synthetic_traces_have_the_published_statistics(name: str) -> None:
    """Rate, spread of the gaps, clustering at every time scale, and popularity are close to the published file's."""
    found = described(name)
    cv, dispersion, top1, top10 = KNOWN[name]
    assert found["rate_rps"] == pytest.approx(PROFILES[name].rate_rps, rel=0.02)
    assert found["gaps"]["cv"] == pytest.approx(cv, rel=0.15)
    for window, value in dispersion.items():
        assert found["windows"][window]["dispersion"] == pytest.approx(value, rel=0.35)
    assert found["workflows"]["top1"] == pytest.approx(top1, abs=0.04)
    assert found["workflows"]["top10"] == pytest.approx(top10, abs=0.02)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published traces are not at hand")
def test_known_statistics_are_those_of_the_files(name: str) -> None:
    """The statistics that synthetic traces are compared with are computed from the published files."""
    found: dict[str, Any] = describe(read_records(PUBLISHED / FILES[name], AUTO, Asking(), 0))
    cv, dispersion, top1, top10 = KNOWN[name]
    assert found["rate_rps"] == pytest.approx(PROFILES[name].rate_rps, rel=0.01)
    assert found["gaps"]["cv"] == pytest.approx(cv, rel=0.01)
    for window, value in dispersion.items():
        assert found["windows"][window]["dispersion"] == pytest.approx(value, rel=0.02)
    assert (found["workflows"]["top1"], found["workflows"]["top10"]) == pytest.approx((top1, top10), abs=0.005)


def test_gentd26_is_followed_in_what_is_asked_for() -> None:
    """Kinds, images, steps, LoRAs and seconds alone are as frequent as in the published trace."""
    found = described("gentd26", 8000)
    assert found["kinds"]["generation"] == pytest.approx(0.911, abs=0.015)
    assert found["images"]["1"] == pytest.approx(0.578, abs=0.02)
    assert found["images"]["8"] == pytest.approx(0.148, abs=0.02)
    assert found["steps"]["30"] == pytest.approx(0.907, abs=0.015)
    assert found["adapters"]["share_with"] == pytest.approx(0.168, abs=0.02)
    assert found["solo_ms"]["p50"] == pytest.approx(23_000, rel=0.05)


def test_katz_is_followed_in_its_addons() -> None:
    """Nearly all requests have a ControlNet and a LoRA, most two ControlNets, a few of which take most calls."""
    found = described("katz", 4000)
    assert found["controlnets"]["share_with"] == pytest.approx(0.98, abs=0.01)
    assert found["controlnets"]["mean"] == pytest.approx(1.68, abs=0.05)
    assert found["adapters"]["share_with"] == pytest.approx(0.95, abs=0.015)
    assert found["controlnets"]["top10"] > 0.8
    assert found["adapters"]["distinct"] > 1000


@pytest.mark.parametrize("name", PROFILES)
def test_rate_and_seed_are_arguments(name: str) -> None:
    """A synthetic trace has the rate that is asked for; the same seed makes the same one, another seed another."""
    profile = PROFILES[name]
    one = synthesise(profile, 300, 4 * profile.rate_rps, 1)
    assert one[-1].at_s == pytest.approx(300 / (4 * profile.rate_rps), rel=0.03)
    assert one == synthesise(profile, 300, 4 * profile.rate_rps, 1)
    assert one != synthesise(profile, 300, 4 * profile.rate_rps, 2)


def test_gaps_have_their_spread_and_ticks() -> None:
    """Gamma gaps have the CV they are told, and stamps are multiples of the tick."""
    rng = np.random.default_rng(0)
    for cv in (0.3, 1.0, 3.0):
        gaps = np.diff(Gaps(cv=cv).times_s(40_000, 2.0, rng))
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06)
    times = Gaps(tick_s=3.0).times_s(50, 1.0, rng)
    assert (times % 3.0 == 0).all()
    assert (np.diff(times) >= 0).all()


def test_weight_makes_long_gaps_follow_long_ones() -> None:
    """With a weight the counts disperse more at long windows than at short ones; without, they do not."""
    table = ((0.0, 0.0), (0.5, 0.4), (0.9, 2.0), (1.0, 6.0))
    rng = np.random.default_rng(1)

    def dispersion(gaps: Gaps) -> float:
        counts = np.histogram(gaps.times_s(20_000, 1.0, rng), np.arange(0, 20_000, 100))[0]
        return float(counts.var() / counts.mean())

    assert dispersion(Gaps(table, weight=0.3, memory=0.99)) > 3 * dispersion(Gaps(table))


def test_the_simulator_reads_what_is_written(tmp_path: Path) -> None:
    """A trace of this tool is one for `lego-serve simulate`: times, workflows, objectives and tenants are the same."""
    from lego_serve.cluster_files import read_cluster, read_trace

    setting = read_cluster(Path("configs/clusters/h800_8.yaml")).setting()
    for name in ("diflow", "gentd26"):
        asking = Asking(workflows=() if name == "diflow" else ("A", "B", "C"))
        records = list(to_records(synthesise(PROFILES[name], 60, 3.0, 0), asking, 0))
        path = tmp_path / name
        write_native(path, records)
        requests = read_trace(path, setting)
        assert [request.at_s for request in requests] == pytest.approx([record.at_s for record in records], abs=1e-5)
        assert [request.workflow for request in requests] == [record.workflow for record in records]
        assert [1000 * request.slo_s for request in requests] == pytest.approx([r.extra["slo_ms"] for r in records])
