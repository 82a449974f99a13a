"""NVIDIA's load generator against a server of two gateways that share a port."""

import json
import os
import subprocess
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long]
AIPERF = "aiperf==0.13.0"
TOKENIZER = Path(__file__).parents[3] / "lego_serve" / "zoo" / "weights" / "lego-tiny" / "tokenizer"
REQUESTS = 6
INSTALL_S, PATIENCE_S = 900.0, 300.0
SMALL = ("--extra-inputs", "size:128x96")
KINDS = {
    "image_generation": ("--endpoint-type", "image_generation", *SMALL),
    "streaming": ("--endpoint-type", "image_generation", "--streaming", *SMALL, "--extra-inputs", "partial_images:2"),
    "image_edit": ("--endpoint-type", "image_edit", "--image-width-mean", "128", "--image-height-mean", "96"),
}


@pytest.fixture(scope="module")
def aiperf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its command in an environment of its own, for it wants older libraries; skipped where it cannot be installed."""
    folder = tmp_path_factory.mktemp("aiperf")
    venv.create(folder, with_pip=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", AIPERF]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
    if done.returncode != 0:
        reason = f"pip cannot install {AIPERF}: {done.stderr[-500:]}"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    return folder / "bin" / "aiperf"


@pytest.mark.parametrize("kind", KINDS)
def test_aiperf_measures_the_server_without_an_error(server, aiperf: Path, tmp_path: Path, kind: str) -> None:
    """Images, streams of them with previews, and edits of images that it makes up; it reads our metrics besides."""
    command = [
        str(aiperf), "profile", "--model", "lego-tiny", "--url", server.url, "--tokenizer", str(TOKENIZER),
        "--request-count", str(REQUESTS), "--concurrency", "2", "--synthetic-input-tokens-mean", "8",
        "--extra-inputs", "num_inference_steps:8", "--ui", "simple", "--output-artifact-dir", str(tmp_path),
        *KINDS[kind],
    ]  # fmt: skip
    # Offline it would not read a tokenizer from a folder; and it has libraries of its own.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "profile_export_aiperf.json").read_text())
    assert report["request_count"]["avg"] == REQUESTS
    assert report["error_summary"] == []
    assert report["request_latency"]["avg"] > 0
    records = [json.loads(line) for line in (tmp_path / "profile_export.jsonl").read_text().splitlines()]
    assert [record.get("error") for record in records] == [None] * REQUESTS
    if kind == "streaming":
        assert report["http_req_chunks_received"]["avg"] > 1
    metrics = (tmp_path / "server_metrics_export.json").read_text()
    assert "lego_serve_requests" in metrics
