"""Runs the store's scripts in Redis: never for long, never twice, and not at all while Redis is known to be away."""

import time
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError

from lego_serve.errors import StoreUnavailable
from lego_serve.jobstore.breaker import Breaker
from lego_serve.jobstore.redis_scripts import SERVER_TIME, complete_script

TIMEOUT_S = 0.25
LARGE_TIMEOUT_S = 2.0
# What Redis answers while it is full, loading, read only, cannot save or lets nobody in: the command is right, the
# server is not.
AWAY = (
    "OOM",
    "LOADING",
    "READONLY",
    "MISCONF",
    "MASTERDOWN",
    "BUSY",
    "NOREPLICAS",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "DENIED",
)
AWAY_CLASSES = ("OutOfMemoryError", "ReadOnlyError", "NoPermissionError")


def connect(url: str, timeout_s: float = TIMEOUT_S) -> Redis:
    """Return a client that neither waits nor repeats: a script that was sent may have been carried out.

    Bytes that are no UTF-8 are escaped, so that one damaged record spoils no answer that holds others.
    """
    return Redis.from_url(url, decode_responses=True, encoding_errors="surrogateescape", **patience(timeout_s))


def patience(timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Return the arguments of a connection that neither waits nor repeats."""
    return {"retry": Retry(NoBackoff(), 0), "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}


def connect_for_bytes(url: str, timeout_s: float = LARGE_TIMEOUT_S) -> Redis:
    """Return a client that answers bytes, and has the time that megabytes take."""
    return Redis.from_url(url, **patience(timeout_s))


class ScriptRunner:
    """The scripts, over one client."""

    def __init__(self, client: Redis, prefix: str, now_lua: str = SERVER_TIME) -> None:
        self.client = client
        self._prefix, self._now_lua = prefix, now_lua
        self._breaker = Breaker(time.monotonic)
        self._scripts: dict[str, Any] = {}

    @property
    def is_available(self) -> bool:
        """Whether Redis answered lately."""
        return not self._breaker.is_open

    async def run(self, body: str, *arguments: str | bytes | float) -> Any:
        """Return what a script answers.  Raises StoreUnavailable where Redis is away or refuses to write."""
        if not self._breaker.admits():
            raise StoreUnavailable("The job store does not answer; try again later.")
        script = self._scripts.get(body)
        if script is None:
            script = self.client.register_script(complete_script(body, self._now_lua))
            self._scripts[body] = script
        try:
            answer = await script(keys=[self._prefix], args=arguments)
        except (ConnectionError, TimeoutError, OSError) as error:
            self._breaker.note_failure()
            raise StoreUnavailable(f"The job store does not answer ({type(error).__name__}).") from error
        except ResponseError as error:
            if is_away(error):
                self._breaker.note_failure()
                raise StoreUnavailable(f"The job store takes no writes now ({type(error).__name__}).") from error
            raise
        self._breaker.note_success()
        return answer


def is_away(error: RedisError) -> bool:
    """Whether an answer says that the server is at fault and may not be later.

    A script's error begins with the code, or redis-py has made a class of it and cut it off.
    """
    return str(error).startswith(AWAY) or type(error).__name__ in AWAY_CLASSES
