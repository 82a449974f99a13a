"""Whose webhook messages are sent at the same time, and until when the others wait.

A receiver that answers slowly holds its own places only: each has a few, each tenant a quarter of all.  What finds no
place goes back to the store, to come up again at the pace at which its receiver has answered lately, so that a
thousand messages for one receiver neither fill the memory nor stand before anybody else's.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]  # a tenant and one of its receivers
FIRST_GUESS_S = 0.1
WEIGHT_OF_LAST = 0.3  # in the running mean of how long a receiver takes


@dataclass(slots=True)
class _Receiver:
    sending: int = 0
    mean_s: float = FIRST_GUESS_S
    put_off_until: float = 0.0


@dataclass(slots=True)
class WebhookTurns:
    """Counts what is being sent.  Receivers that nothing is sent to and nobody waits for are forgotten."""

    total: int = 128
    per_tenant: int = 32
    per_receiver: int = 8
    sending: int = 0
    _tenants: dict[str, int] = field(default_factory=dict)
    _receivers: dict[Key, _Receiver] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """How many more may be sent at once."""
        return self.total - self.sending

    def begin(self, key: Key) -> bool:
        """Take a place for a message; False where its receiver, its tenant or everybody has none left."""
        tenant, receiver = key[0], self._receivers.get(key, _Receiver())
        is_full = receiver.sending >= self.per_receiver or self._tenants.get(tenant, 0) >= self.per_tenant
        if is_full or self.free <= 0:
            return False
        self._receivers[key] = receiver
        self._tenants[tenant] = self._tenants.get(tenant, 0) + 1
        receiver.sending += 1
        self.sending += 1
        return True

    def put_off(self, key: Key, now: float) -> float:
        """Return when a message that found no place is to be looked at again, each a little after the one before."""
        receiver = self._receivers.setdefault(key, _Receiver())
        pause_s = receiver.mean_s / self.per_receiver
        receiver.put_off_until = max(now, receiver.put_off_until) + pause_s
        return receiver.put_off_until

    def end(self, key: Key, took_s: float, now: float) -> None:
        """Give a place back; ``took_s`` is how long its message took."""
        receiver = self._receivers[key]
        receiver.sending -= 1
        receiver.mean_s += WEIGHT_OF_LAST * (took_s - receiver.mean_s)
        self.sending -= 1
        self._tenants[key[0]] -= 1
        if not self._tenants[key[0]]:
            del self._tenants[key[0]]
        # All of them only when nothing is sent, because tenants may name very many.
        for known in [key] if self.sending else list(self._receivers):
            if not self._receivers[known].sending and self._receivers[known].put_off_until <= now:
                del self._receivers[known]
