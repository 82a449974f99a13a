"""Overlays as pods of this machine, and clients that ask them from where an ingress would."""

import copy
import json
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from deploy.checks.tools import KUBERNETES, Manifest, rendered
from deploy.generate import patch
from deploy.local.network import why_not as why_no_network
from deploy.local.operator import LocalCluster, ask

ROOT = Path(__file__).parents[3]
PROGRAMS = {"buildah": "buildah", "podman": "podman", "runc": "runc", "debootstrap": "debootstrap", "nft": "nftables"}
IMAGES = {  # what the manifests name, and what was built here
    "lego-serve:gateway": "localhost/lego-serve:gateway",
    "lego-serve:worker": "localhost/lego-serve:worker",
    "valkey/valkey:8.1-bookworm": "localhost/lego-serve:store",
}
KEY = "for-development-only"
KEY_DIGEST = sha256(KEY.encode()).hexdigest()
MEMORY, STORE = "4Gi", "200000000"  # of a pod and of its object store, where the manifests mean larger machines
BODY = {"prompt": "a red circle", "num_inference_steps": 4, "seed": 1, "size": "96x96"}


def why_not() -> str | None:
    """Why pods do not run here, in words; None where they do."""
    if os.environ.get("LEGO_CLUSTER") != "1":
        return "`make cluster` runs these: they take an idle machine and a quarter of an hour"
    if missing := [package for program, package in PROGRAMS.items() if shutil.which(program) is None]:
        return f"pods need {', '.join(missing)}: apt-get install {' '.join(missing)}"
    return why_no_network()


def build_images(*targets: str) -> None:
    """Build images from the Dockerfiles, those of pods if none is named; quick where nothing has changed."""
    subprocess.run([ROOT / "deploy" / "images.sh", *(targets or ("gateway", "worker", "store"))], check=True)


def overlay_with(folder: Path, name: str, config: str) -> tuple[Manifest, ...]:
    """An overlay with another configuration, as `make deploy-files` and `kubectl kustomize` make it."""
    copied = folder / "kubernetes"
    shutil.copytree(KUBERNETES, copied)
    place = copied / "overlays" / name
    (place / "config.yaml").write_text(config)
    (place / "serve-config.yaml").write_text(patch(place / "config.yaml"))
    return rendered(copied / "overlays" / name)


def small(manifests: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    """The same with less memory for each pod, so that all fit on one machine."""
    found = copy.deepcopy(manifests)
    for manifest in found:
        if manifest["kind"] == "RayService":
            for group in manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
                group["rayStartParams"]["object-store-memory"] = STORE
                limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
                limits["memory"] = MEMORY if group["groupName"] != "gateway" else limits["memory"]
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: when it was sent, its status, how long it took, and what came."""

    sent_s: float
    status: int
    seconds: float
    text: str


def ask_for_image(
    cluster: LocalCluster,
    body: Mapping[str, Any] = BODY,
    timeout_s: float = 280,
    headers: Mapping[str, str] | None = None,
) -> Asked:
    """Request an image of one of the gateways that are ready, as a Service picks one; for a thread of a place."""
    started = time.monotonic()
    while not (addresses := cluster.addresses("lego-gateway")):
        if time.monotonic() - started > timeout_s:
            return Asked(started, 0, timeout_s, "no gateway is ready")
        time.sleep(0.1)
    sent = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **(headers or {})}
    words = (random.choice(addresses), 8000, "POST", "/v1/images/generations", json.dumps(body).encode(), sent)
    status, text = ask(*words, timeout_s=timeout_s)
    return Asked(started, status, time.monotonic() - started, text)


class Load:
    """Clients that request one image after another until they are told to stop."""

    def __init__(self, cluster: LocalCluster, body: Mapping[str, Any]) -> None:
        self.asked: list[Asked] = []
        self._cluster, self._body = cluster, body
        self._stopping = threading.Event()

    def run(self) -> None:
        """Ask in turn."""
        self._cluster.places["ingress"].enter()
        while not self._stopping.is_set():
            self.asked.append(ask_for_image(self._cluster, self._body))
            self._stopping.wait(0.2)

    def stop(self) -> None:
        """Let each end what it has asked for."""
        self._stopping.set()

    @property
    def failed(self) -> list[Asked]:
        """The requests without an image."""
        return [each for each in self.asked if each.status != 200]

    def told(self) -> str:
        """How many there were, and how long they took."""
        seconds = sorted(each.seconds for each in self.asked)
        middle, most = (seconds[len(seconds) // 2], seconds[-1]) if seconds else (0.0, 0.0)
        return f"{len(self.asked)} requests, {len(self.failed)} failed, median {middle:.2f} s, slowest {most:.1f} s"


@contextmanager
def load(cluster: LocalCluster, clients: int = 2, body: Mapping[str, Any] = BODY) -> Iterator[Load]:
    """Some clients at once."""
    made = Load(cluster, body)
    threads = [threading.Thread(target=made.run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stop()
        for thread in threads:
            thread.join()


def resident_bytes(pid: int) -> int:
    """The memory of a process that no other has: its proportional share."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:")))


def image_bytes(name: str) -> int:
    """The size of an image."""
    done = subprocess.run(
        ["podman", "image", "inspect", "--format", "{{.Size}}", name],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    return int(done.stdout)
