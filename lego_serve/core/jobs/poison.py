"""Requests that have ended the replicas that computed them, by what they ask for; times are given.

Who asks does not count, nor does the seed: noise is of the same size whatever it is drawn from.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

KEPT_S = 3600.0
KEPT = 1000
SEED = "seed"
NOBODY = ""  # in place of a fingerprint


def fingerprint(workflow: str, inputs: Mapping[str, object]) -> str:
    """Return the hash of what a request asks for: its workflow and the values of its inputs, arrays included."""
    digest = hashlib.sha256()
    _add(digest, (workflow, {name: value for name, value in inputs.items() if name != SEED}))
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", value: object) -> None:
    """Add a value with its type, and the length of what has one, so that no two values read alike."""
    if is_dataclass(value) and not isinstance(value, type):
        digest.update(f"{type(value).__name__}:".encode())
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        digest.update(f"mapping {len(value)}:".encode())
        for name in sorted(value, key=repr):
            _add(digest, name)
            _add(digest, value[name])
    elif isinstance(value, tuple | list):
        digest.update(f"sequence {len(value)}:".encode())
        for part in value:
            _add(digest, part)
    elif isinstance(value, bytes) or hasattr(value, "nbytes"):
        content = memoryview(value)  # type: ignore[arg-type]  # an array's, in any order of its numbers
        digest.update(f"array {content.format}{content.shape}:".encode())
        digest.update(content.tobytes())
    else:
        text = f"{type(value).__name__} {value!r}".encode()
        digest.update(f"{len(text)}:".encode())
        digest.update(text)


class PoisonBook:
    """The requests that are refused for KEPT_S, the last KEPT of them; those that come again are kept longest.

    Two different ones with no answer of their node to anybody between them are no request's doing: the node fails
    whatever it is asked, and nobody is refused for it until it has answered somebody.
    """

    def __init__(self, kept: int = KEPT, kept_s: float = KEPT_S) -> None:
        self._kept, self._kept_s = kept, kept_s
        self._until_s: OrderedDict[str, float] = OrderedDict()
        self._unproven: dict[str, str] = {}  # by node, which has not answered since: who was blamed

    def __len__(self) -> int:
        return len(self._until_s)

    def blame(self, node: str, request: str, now: float) -> bool:
        """A request, by its fingerprint, has ended replicas of a node, alone; return whether it is to blame."""
        first = self._unproven.setdefault(node, request)
        if first != request:
            self._until_s.pop(first, None)
            self._unproven[node] = NOBODY
            return False
        self._until_s[request] = now + self._kept_s
        self._until_s.move_to_end(request)
        while len(self._until_s) > self._kept:
            self._until_s.popitem(last=False)
        return True

    def answered(self, node: str) -> None:
        """A node has answered a call: it does not fail whatever it is asked."""
        self._unproven.pop(node, None)

    def left_s(self, request: str, now: float) -> float:
        """Return for how long a request is still refused; 0 where it is not."""
        until_s = self._until_s.get(request)
        if until_s is None:
            return 0.0
        if until_s <= now:
            del self._until_s[request]
            return 0.0
        self._until_s.move_to_end(request)
        return until_s - now
