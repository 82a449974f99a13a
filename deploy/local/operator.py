"""Does with manifests what Kubernetes and KubeRay do: runs pods, replaces those that end, names them, tells Serve."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from deploy.checks.network import INGRESS, MONITORING, OPERATOR, STRANGER, selects
from deploy.checks.network import Pod as End
from deploy.checks.tools import Manifest
from deploy.local import expand, policies
from deploy.local.containers import Containers
from deploy.local.kubelet import RunningPod
from deploy.local.network import Network, Place
from deploy.local.pods import Pod, Secrets

OUTSIDE: Mapping[str, End] = {"ingress": INGRESS, "monitoring": MONITORING, "operator": OPERATOR, "stranger": STRANGER}
LOOK_S = 0.2


class LocalCluster:
    """Pods of manifests on this machine; what a lost pod's group is replaced after is ``replace_after_s``.

    ``places`` are those outside: a client by the ingress, Prometheus, the operator, and a stranger.
    """

    def __init__(
        self, manifests: Sequence[Manifest], secrets: Secrets, network: Network, containers: Containers, folder: Path
    ) -> None:
        self.manifests: Sequence[Manifest] = ()
        self.secrets = secrets
        self.pods: dict[str, RunningPod] = {}  # by the names that the manifests give them
        self.ended: list[tuple[str, int, str | None]] = []  # name, status, and the probe that ended it
        self.replace_after_s: dict[str, float] = {}  # by group; 2 s where nothing is said
        self._network, self._containers, self._folder = network, containers, folder
        self.places = {name: network.add() for name in OUTSIDE}
        self._lock = threading.RLock()
        self._is_closing = False
        self._count = 0
        self.apply(manifests)

    def apply(self, manifests: Sequence[Manifest]) -> None:
        """Take these manifests for what is started from now on; what runs keeps its own."""
        self.manifests = manifests
        self.secrets = {**self.secrets, **expand.secrets_of(manifests)}
        self._mount_files()

    def start_stores(self) -> None:
        """Start what StatefulSets run."""
        for pod in expand.stores(self.manifests, self.secrets):
            self._start(pod)

    def start_ray(self, cluster: str, limit_s: float = 180) -> None:
        """Start a Ray cluster: its other pods wait for the head, as their first container does there."""
        head, *others = expand.ray_pods(expand.service_of(self.manifests), cluster, self.secrets)
        self._start(head)
        self.wait(f"{head.name} ready", lambda: self.pods[head.name].is_ready, limit_s)
        for pod in others:
            self._start(pod)

    def delete_ray(self, cluster: str) -> None:
        """Delete a Ray cluster: all its pods at once."""
        leaving = [pod for pod in self.pods.values() if pod.pod.labels.get("ray.io/cluster") == cluster]
        for pod in leaving:
            pod.is_leaving, pod.is_ready = True, False
        self._publish()
        threads = [threading.Thread(target=pod.delete) for pod in leaving]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def submit(self, cluster: str, limit_s: float = 120) -> None:
        """Tell Serve its nodes, as the operator does: through the head's dashboard, with the token."""
        document = yaml.safe_load(expand.service_of(self.manifests)["spec"]["serveConfigV2"])
        body = json.dumps(document).encode()
        self.wait("the dashboard", lambda: self._dashboard(cluster, "PUT", body)[0] == 200, limit_s)

    def applications(self, cluster: str) -> dict[str, str]:
        """How Serve's applications stand, by name."""
        status, text = self._dashboard(cluster, "GET", None)
        found = json.loads(text)["applications"] if status == 200 else {}
        return {name: each["status"] for name, each in found.items()}

    def group(self, name: str) -> list[RunningPod]:
        """The pods of a group that run."""
        return [pod for pod in list(self.pods.values()) if pod.pod.group == name and not pod.is_over]

    def addresses(self, service: str) -> list[str]:
        """The addresses behind a Service: of pods that are ready, or of all where it says so."""
        spec = next(
            each["spec"] for each in self.manifests if each["kind"] == "Service" and each["metadata"]["name"] == service
        )
        also = spec.get("publishNotReadyAddresses", False)
        return [
            pod.place.address
            for pod in list(self.pods.values())
            if selects({"matchLabels": spec["selector"]}, pod.pod.labels) and not pod.is_over and (pod.is_ready or also)
        ]

    def wait(self, what: str, is_so: Callable[[], bool], limit_s: float) -> float:
        """Wait until something is so; answers the seconds.  Raises TimeoutError with the logs of all pods."""
        started = time.monotonic()
        while not is_so():
            if time.monotonic() - started > limit_s:
                raise TimeoutError(f"{what}: not within {limit_s:.0f} s\n{self.logs()}")
            time.sleep(LOOK_S)
        return time.monotonic() - started

    def logs(self, lines: int = 15) -> str:
        """The last lines of each pod, and which pods have ended."""
        texts = [f"--- {pod.name}\n{self._containers.logs(pod.container.name, lines)}" for pod in self.pods.values()]
        return "\n".join([*texts, f"ended: {self.ended}"])

    def run_from(self, place: str, work: Callable[[], Any]) -> Any:
        """Do something from a place outside; answers its result.  Raises what it raises."""
        return run_in(self.places[place], work)

    def close(self) -> None:
        """Replace nothing any more."""
        self._is_closing = True

    def _start(self, pod: Pod) -> None:
        with self._lock:
            self._count += 1
            place = self._network.add()
            name = f"{pod.name}-{self._count}"
            self._obey(pod, place)
            container = self._containers.run(pod, name, place)
            self.pods[pod.name] = RunningPod(pod, name, place, container, self._pod_ended)
            self._publish()

    def _pod_ended(self, gone: RunningPod, status: int) -> None:
        """Replace a pod that was not deleted, in a new place: with another address."""
        self.ended.append((gone.name, status, gone.killed_for))
        self._network.remove(gone.place.name)
        if gone.is_leaving or self._is_closing:
            self.pods.pop(gone.pod.name, None)
            return
        time.sleep(self.replace_after_s.get(gone.pod.group, 2.0))
        if not self._is_closing:
            self._start(gone.pod)

    def _publish(self) -> None:
        """Give all pods the names and the rules of those that are there now."""
        with self._lock:
            lines = ["127.0.0.1 localhost"]
            for service in (each for each in self.manifests if each["kind"] == "Service"):
                name = service["metadata"]["name"]
                names = f"{name} {name}.{expand.NAMESPACE}.svc.cluster.local"
                lines += [f"{address} {names}" for address in self._all_addresses(service["spec"]["selector"])]
            for pod in self.pods.values():
                if pod.pod.labels.get("ray.io/node-type") == "head" and not pod.is_over:
                    full = expand.head_service(pod.pod.labels["ray.io/cluster"])
                    lines.append(f"{pod.place.address} {full} {full.partition('.')[0]}")
            self._containers.hosts.write_text("\n".join([*lines, ""]))
            for pod in self.pods.values():
                if not pod.is_over:
                    self._obey(pod.pod, pod.place)

    def _all_addresses(self, selector: Mapping[str, str]) -> list[str]:
        chosen = (pod for pod in self.pods.values() if selects({"matchLabels": selector}, pod.pod.labels))
        return [pod.place.address for pod in chosen if not pod.is_over]

    def _obey(self, pod: Pod, place: Place) -> None:
        others = {each.address: OUTSIDE[name] for name, each in self.places.items()}
        others |= {each.place.address: End(each.pod.labels) for each in self.pods.values() if not each.is_over}
        place.obey(policies.rules(self.manifests, End(pod.labels), others))

    def _mount_files(self) -> None:
        """Lay out ConfigMaps and Secrets as volumes show them."""
        maps = {each["metadata"]["name"]: each["data"] for each in self.manifests if each["kind"] == "ConfigMap"}
        for kind, files in (("configMap", maps), ("secret", self.secrets)):
            for name, values in files.items():
                folder = self._folder / kind / name
                folder.mkdir(parents=True, exist_ok=True)
                for key, text in values.items():
                    (folder / key).write_text(text)

    def _dashboard(self, cluster: str, method: str, body: bytes | None) -> tuple[int, str]:
        head = self.pods[f"{cluster}-head"]
        secret = expand.service_of(self.manifests)["spec"]["rayClusterConfig"]["authOptions"]["secretName"]
        headers = {"authorization": f"Bearer {self.secrets[secret]['auth_token']}", "content-type": "application/json"}
        path = "/api/serve/applications/"
        words = (head.place.address, 8265, method, path, body, headers)
        return tuple(self.run_from("operator", lambda: ask(*words)))  # type: ignore[return-value]


def ask(
    address: str,
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> tuple[int, str]:
    """Request something of an address from where the calling thread is; status 0 where nobody answers."""
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def run_in(place: Place, work: Callable[[], Any]) -> Any:
    """Do something in a thread of a place; answers its result.  Raises what it raises."""
    with ThreadPoolExecutor(1, initializer=place.enter) as threads:
        return threads.submit(work).result()


@contextmanager
def local_cluster(
    manifests: Sequence[Manifest], folder: Path, images: Mapping[str, str], secrets: Secrets | None = None
) -> Iterator[LocalCluster]:
    """A network and containers for manifests; all is gone afterwards."""
    with Network() as network:
        containers = Containers(folder, images, f"lego{folder.stat().st_ino}")
        cluster = LocalCluster(manifests, secrets or {}, network, containers, folder)
        try:
            yield cluster
        finally:
            cluster.close()
            containers.clear()
