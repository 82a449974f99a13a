"""The limits of a connection, and how many connections a client address has."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a client may send before it is known, and how long it may take; seconds and bytes.

    A body may be ``body_timeout_s`` behind ``body_bytes_per_s``; what comes faster makes up for that and earns no more.
    So may the reading of an answer be behind ``write_bytes_per_s``, as long as there is more of it to be written.
    ``half_close_grace_s`` is how long a client that has ended its sending side is left alone before it is asked for a
    sign of life; ``linger_s`` and ``linger_bytes`` are how long, and for how much, one that is still sending is heard
    after its last answer, for many clients read no answer before they have sent all.
    """

    head_bytes: int = 32 * 1024
    headers: int = 100
    target_bytes: int = 8 * 1024
    head_timeout_s: float = 30.0
    body_timeout_s: float = 30.0
    body_bytes_per_s: int = 16 * 1024
    keep_alive_s: float = 120.0
    write_timeout_s: float = 60.0
    write_bytes_per_s: int = 16 * 1024
    connections_per_address: int = 1024
    half_close_grace_s: float = 1.0
    linger_s: float = 5.0
    linger_bytes: int = 2**20

    def body_deadline(self, deadline: float, now: float, received: int) -> float:
        """Return a body's next deadline, from its last one and the bytes that have arrived since it was set."""
        return min(deadline + received / self.body_bytes_per_s, now + self.body_timeout_s)

    def write_deadline(self, deadline: float, now: float, taken: int) -> float:
        """Return by when more of an answer must be taken, from the last such time and what was taken since then."""
        return min(deadline + taken / self.write_bytes_per_s, now + self.write_timeout_s)


class AddressCounts:
    """Counts the open connections of each client address."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Count a connection, unless its address has as many as it may have."""
        if self._counts[address] >= self._most:
            return False
        self._counts[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count a connection's end; an address without any is forgotten."""
        self._counts[address] -= 1
        if self._counts[address] <= 0:
            del self._counts[address]
