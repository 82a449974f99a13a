"""The sockets a server listens on."""

import resource
import socket
from pathlib import Path

from lego_serve.errors import ConfigError


def reserve(host: str, port: int) -> socket.socket:
    """Bind a port without listening, so that no other program takes it while models load.  Raises ConfigError."""
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:  # SO_REUSEPORT alone would join another server
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
        return _shared(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host_and_port(host, port)}: {error.strerror}") from None


def shared_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket, whose port several processes of this server may share.  Raises ConfigError."""
    try:  # Closed connections hold the port for a minute; SO_REUSEADDR lets a restarted server bind it at once.
        return _shared(host, port, socket.SO_REUSEADDR)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host_and_port(host, port)}: {error.strerror}") from None


def unix_socket(path: Path) -> socket.socket:
    """Return a bound socket for processes of this machine."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    return bound


def allow_many_files() -> None:
    """Let this process have as many files and connections open as the system lets it ask for."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def host_and_port(host: str, port: int) -> str:
    """Return host and port as in a URL, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _shared(host: str, port: int, *options: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only on sockets with a named protocol; without it every answer on a kept-alive connection
    # waits 40 ms for the client's delayed acknowledgement.
    bound = socket.socket(_family(host), socket.SOCK_STREAM, socket.IPPROTO_TCP)
    for option in (socket.SO_REUSEPORT, *options):
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
    bound.bind((host, port))
    return bound


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
