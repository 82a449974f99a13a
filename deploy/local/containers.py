"""Runs a pod's container with podman, as a kubelet would: read-only, without capabilities, in the pod's network."""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.network import Place, call
from deploy.local.pods import Mount, Pod


@dataclass(frozen=True, slots=True)
class Container:
    """A running container: its name, and the id of its first process on this machine."""

    name: str
    pid: int

    def kill(self) -> None:
        """End it at once, as a machine does that is lost."""
        _signal(self.pid, signal.SIGKILL)

    def stop(self, grace_s: float) -> None:
        """Ask it to end, and kill it when it has not after ``grace_s`` seconds."""
        handle = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            if not select.select([handle], [], [], grace_s)[0]:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(handle)

    def wait(self) -> int:
        """Wait for its end; answers its exit status, -1 where nobody knows it any more."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            pass
        else:
            select.select([handle], [], [])
            os.close(handle)
        for _ in range(100):  # podman hears of it a little later
            try:
                state = json.loads(call("podman", "inspect", "--format", "{{json .State}}", self.name))
            except RuntimeError:
                break  # it has been removed
            if not state["Running"]:
                return int(state["ExitCode"])
            time.sleep(0.05)
        return -1


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def settings(folder: Path) -> Path:
    """Write podman's settings for a machine without systemd and without the right to raise limits."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = int(Path("/proc/sys/kernel/pid_max").read_text())  # as podman lowers its own
    processes = min(most, resource.getrlimit(resource.RLIMIT_NPROC)[1] % 2**63)
    limits = f'"nofile={files}:{files}", "nproc={processes}:{processes}"'
    path = folder / "containers.conf"
    path.write_text(
        f'[containers]\ndefault_ulimits = [{limits}]\n[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
    )
    return path


class Containers:
    """Runs containers of one test, with files in one folder: ``configMap/NAME/KEY``, ``secret/NAME/KEY``, claims."""

    def __init__(self, folder: Path, images: Mapping[str, str], tag: str) -> None:
        self._folder, self._images, self._tag = folder, images, tag
        self._names: list[str] = []
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self._environment = os.environ | {"CONTAINERS_CONF": str(settings(folder))}

    def run(self, pod: Pod, name: str, place: Place) -> Container:
        """Start a pod's container in a place.  Raises RuntimeError."""
        name = f"{self._tag}-{name}"
        words = ["run", "--detach", "--name", name, "--pull", "never", "--network", f"ns:{place.path}"]
        words += ["--hostname", name, "--no-hosts", "--volume", f"{self.hosts}:/etc/hosts:ro", "--dns", "none"]
        words += ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--user", f"{pod.user}:{pod.user}"]
        words += ["--security-opt", "no-new-privileges", "--memory", str(pod.memory_bytes), "--memory-swap", "-1"]
        if pod.shared_memory_bytes is not None:
            words += ["--shm-size", str(pod.shared_memory_bytes)]
        for key, value in pod.environment.items():
            words += ["--env", f"{key}={value}"]
        for mount in pod.mounts:
            words += ["--volume", f"{self._source(name, pod, mount)}:{mount.path}:{'ro' if mount.read_only else 'rw'}"]
        if pod.entrypoint:
            words += ["--entrypoint", json.dumps(pod.entrypoint)]
        self._names.append(name)
        image = self._images.get(pod.image, pod.image)
        done = subprocess.run(
            ["podman", *words, image, *pod.arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stderr.strip()}")
        return Container(name, int(call("podman", "inspect", "--format", "{{.State.Pid}}", name)))

    def logs(self, name: str, lines: int = 40) -> str:
        """The last lines that a container printed."""
        words = ["podman", "logs", "--tail", str(lines), name]
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout

    def clear(self) -> None:
        """End and remove all of them."""
        if self._names:
            subprocess.run(
                ["podman", "rm", "--force", "--ignore", "--time", "0", *self._names], capture_output=True, check=False
            )

    def _source(self, name: str, pod: Pod, mount: Mount) -> Path:
        own = mount.source.startswith("emptyDir/")
        path = self._folder / (f"pods/{name}/{mount.source}" if own else mount.source)
        if own or mount.source.startswith("claim/"):
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, pod.user, pod.user)
            path.chmod(0o2777)
        elif not path.is_dir():
            raise RuntimeError(f"{name}: there is no {mount.source}")
        return path
