"""The sockets a server listens on."""

import socket
from pathlib import Path

from lego_serve.errors import ConfigError


def reserve(host: str, port: int) -> socket.socket:
    """Bind the port without listening, so that nobody else takes it while models load.  Raises ConfigError."""
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as trial:  # SO_REUSEPORT alone would join another server
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            port = trial.getsockname()[1]
        return _shared(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host_and_port(host, port)}: {error.strerror}") from None


def shared_socket(host: str, port: int) -> socket.socket:
    """A bound socket whose port several of our processes share.  Raises ConfigError."""
    try:  # What came in here and is closed keeps the port for a minute: a server started again may have it then.
        return _shared(host, port, socket.SO_REUSEADDR)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host_and_port(host, port)}: {error.strerror}") from None


def unix_socket(path: Path) -> socket.socket:
    """A bound socket for processes of this machine."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    return made


def host_and_port(host: str, port: int) -> str:
    """Host and port as a URL has them: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _shared(host: str, port: int, *options: int) -> socket.socket:
    # asyncio sends at once (TCP_NODELAY) only where the protocol is named; else every answer on a
    # connection that is kept waits for the client's delayed acknowledgement, 40 ms.
    shared = socket.socket(_family(host), socket.SOCK_STREAM, socket.IPPROTO_TCP)
    for option in (socket.SO_REUSEPORT, *options):
        shared.setsockopt(socket.SOL_SOCKET, option, 1)
    shared.bind((host, port))
    return shared


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
