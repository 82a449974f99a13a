"""Who listens where, who may read what, and no pickle that a client's bytes could reach."""

import contextlib
import os
import re
import socket
import struct
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from lego_serve.process.tree import command_of, descendants
from tests.support.e2e.servers import CRASHES, OneServer, Server, running

ROOT = Path(__file__).parents[2]
LISTENS, UNCONNECTED = "0A", "07"  # the states of sockets that take what anybody sends, of TCP and of UDP
TABLES = {
    "tcp": (socket.AF_INET, LISTENS),
    "tcp6": (socket.AF_INET6, LISTENS),
    "udp": (socket.AF_INET, UNCONNECTED),
    "udp6": (socket.AF_INET6, UNCONNECTED),
}
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
KEY = "a key of this test"
UNSAFE = re.compile(
    r"\b(?:pickle|cloudpickle|dill|marshal|shelve|joblib)\.(?:loads?|Unpickler)\b|torch\.load\(|weights_only=False"
    r"|allow_pickle=True|yaml\.(?:unsafe_load|full_load|load\()|(?<![\w.])(?:eval|exec)\("
)


@dataclass(frozen=True, slots=True)
class Listener:
    """A process of a server that listens at an address, by what the process is."""

    process: str
    protocol: str
    host: str
    port: int


def listeners(server: Server) -> list[Listener]:
    """Of all processes of a server, by TCP and by UDP."""
    sockets: dict[str, tuple[str, str, int]] = {}
    for table, (family, listens) in TABLES.items():
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == listens:
                address, port = fields[1].split(":")
                words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
                host = socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))
                sockets[fields[9]] = table[:3], host, int(port, 16)
    found = []
    for pid in (server.process.pid, *descendants(server.process.pid)):
        for link in _links(pid):
            inode = link.removeprefix("socket:[").removesuffix("]")
            if link.startswith("socket:[") and inode in sockets:
                found.append(Listener(_name(pid), *sockets[inode]))
    return found


def _links(pid: int) -> list[str]:
    """What a process has open; what it closes meanwhile hides nothing else."""
    found: list[str] = []
    with contextlib.suppress(OSError):  # it has ended
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(os.readlink(file))
    return found


def _name(pid: int) -> str:
    """What a process is, in the words of docs/network.md."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
    for part, name in (
        ("lego_serve.gateway_process", "gateway"),
        ("lego_serve.supervision.cluster_process", "cluster process"),
        ("ray::ServeReplica", "replica"),
        ("ray::ServeController", "Serve controller"),
        ("dashboard/agent.py", "Ray agent"),
        ("dashboard_agent", "Ray agent"),
        ("runtime_env", "Ray agent"),
        ("monitor.py", "Ray monitor"),
        ("dashboard", "Ray dashboard"),
        ("ray::", "idle worker"),
    ):
        if part in words:
            return name
    return command_of(pid)


def documented() -> dict[str, str]:
    """Who may listen and where, as docs/network.md lists it."""
    text = (ROOT / "docs" / "network.md").read_text()
    section = text[text.index("## Who listens") :]
    return dict(re.findall(r"^\| ([a-zA-Z_ ]+?) \| ([^|]+?) \| [^|]+\|$", section, re.MULTILINE)[1:])


@pytest.mark.ray
def test_only_what_is_documented_listens_and_only_on_loopback(crashes: Server) -> None:
    """A server of one machine that is asked at a loopback address is not to be reached from any other."""
    found = listeners(crashes)
    assert found
    assert not [each for each in found if each.host not in LOOPBACK]
    assert {each.process for each in found} <= set(documented()), "docs/network.md does not list them all"
    assert any(each.process == "gateway" and crashes.url.endswith(f":{each.port}") for each in found)


@pytest.mark.ray
@pytest.mark.long
def test_on_a_public_host_the_gateways_port_alone_is_public(one_server: OneServer, tmp_path: Path) -> None:
    """Ray and all that it starts stay on loopback, and nobody takes datagrams."""
    keys = f"keys: [{{sha256: {sha256(KEY.encode()).hexdigest()}, tenant: shop}}]\n"
    text = CRASHES.replace("host: 127.0.0.1", "host: 0.0.0.0") + keys
    server = one_server.get("public", lambda: running(tmp_path, 1, text=text))
    public = {(each.process, each.protocol, each.port) for each in listeners(server) if each.host not in LOOPBACK}
    assert public == {("gateway", "tcp", urlsplit(server.url).port)}


def test_a_bound_socket_of_each_kind_is_found() -> None:
    """Or the tests above would show nothing."""
    here: Any = SimpleNamespace(process=SimpleNamespace(pid=os.getpid()))
    kinds = (("tcp", "127.0.0.1"), ("udp", "127.0.0.1"), ("tcp", "::1"), ("udp", "::1"), ("udp", "0.0.0.0"))
    with contextlib.ExitStack() as scope:
        for protocol, host in kinds:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            bound = scope.enter_context(socket.socket(family, kind))
            bound.bind((host, 0))
            if protocol == "tcp":
                bound.listen()
            port = bound.getsockname()[1]
            found = listeners(here)
            assert (protocol, host, port) in {(each.protocol, each.host, each.port) for each in found}


@pytest.mark.ray
def test_what_a_server_writes_down_is_its_users_alone(crashes: Server) -> None:
    """Its folder under /tmp, and no token in the home folder."""
    folders = set()
    for pid in descendants(crashes.process.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text()
            environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
        except OSError:
            continue
        folders |= set(re.findall(r"/tmp/lego-[a-z0-9_]+", words))
        if "gateway_process" in words:
            assert "RAY_AUTH_MODE=token" in environment
            assert any(re.fullmatch("RAY_AUTH_TOKEN=[0-9a-f]{64}", line) for line in environment)
    assert folders
    assert all(Path(folder).stat().st_mode & 0o077 == 0 for folder in folders)


def test_no_source_unpickles_or_evaluates() -> None:
    """Tensors are safetensors or raw bytes, configurations are YAML that makes no objects; Ray pickles our own.

    The zoo reads the states of its own training, of weights alone, and no server imports that.
    """
    sources = [file for file in (ROOT / "lego_serve").rglob("*.py") if "zoo" not in file.parts]
    found = {
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sources
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if UNSAFE.search(line)
    }
    assert len(sources) > 300
    assert not found
