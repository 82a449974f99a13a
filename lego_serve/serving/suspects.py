"""The suspects that replicas of a cluster run, as its key-value store remembers them: one key a call, while it runs."""

import json
import logging
from typing import Protocol

from lego_serve.core.jobs.messages import LaneProgress

BEGINNING = "lego_serve.suspect."
log = logging.getLogger("lego_serve.cluster")


class TextStore(Protocol):
    """Texts by key, for all processes of a cluster."""

    def get(self, key: str) -> str:
        """Return a text, an empty one where there is none."""
        ...

    def put(self, key: str, text: str) -> None:
        """Write a text."""
        ...

    def remove(self, key: str) -> None:
        """Remove a text."""
        ...


class StoredWitness:
    """A Witness in a store; ``away``: what the store raises where it cannot be asked."""

    def __init__(self, store: TextStore, away: tuple[type[BaseException], ...]) -> None:
        self._store, self._away = store, away

    def note(self, call: str, progress: LaneProgress) -> bool:
        """Write the lane down and return True; False where the store is away."""
        try:
            self._store.put(f"{BEGINNING}{call}", json.dumps([progress.lane, progress.step, progress.steps]))
        except self._away:
            log.warning("no witness of the suspect call %s: it has a moment to say so itself", call, exc_info=True)
            return False
        return True

    def clear(self, call: str) -> None:
        """Remove what was written."""
        try:
            self._store.remove(f"{BEGINNING}{call}")
        except self._away:
            log.warning("the suspect call %s has come through, which no witness knows", call, exc_info=True)

    def last_words(self, call: str) -> tuple[LaneProgress, ...] | None:
        """Return the lane of a lost call that was about to run, if any, and forget it; None where nobody knows."""
        key = f"{BEGINNING}{call}"
        try:
            text = self._store.get(key)
            if text:
                self._store.remove(key)
        except self._away:
            return None
        if not text:
            return ()
        lane, step, steps = json.loads(text)
        return (LaneProgress(lane, step, steps, is_starting=True),)
