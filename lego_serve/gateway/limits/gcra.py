"""Takes from several quotas at once, all of it or nothing, and gives back: GCRA in one step of throttled-py's stores.

A quota is kept as the time at which all of it is there again (the theoretical arrival time of the generic cell rate
algorithm, ITU-T I.371).  The library's own limiters take from one quota alone, and give nothing back.
"""

import math
from collections.abc import Sequence
from typing import Any

from throttled import utils
from throttled.asyncio.store import BaseMemoryAtomicAction, BaseRedisAtomicAction
from throttled.store.memory import BaseMemoryStoreBackend

TYPE = "take_all"
# Arguments: the seconds between two units, the most units and the cost, of each key.  A cost may be 0, to look, or
# less, to give back.  Answers whether nothing was taken, and of each key what is left and the seconds to all of it.
# The clock counts from 2025, so that microseconds are within what Redis writes of a number; a thousandth of a unit is
# let pass, since what is read back of such a number may be later by a few of them.
SLACK = 0.001
SCRIPT = """
local time = redis.call('TIME')
local now = (time[1] - 1735660800) + time[2] / 1000000
local tats, limited = {}, 0
for i, key in ipairs(KEYS) do
    local interval, capacity, cost = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
    tats[i] = math.max(now, tonumber(redis.call('GET', key) or now))
    if cost > 0 and cost > capacity + math.floor((now - tats[i]) / interval + SLACK) then
        limited = 1
    end
end
local answer = {limited}
for i, key in ipairs(KEYS) do
    local interval, capacity, cost = tonumber(ARGV[3 * i - 2]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
    if limited == 0 and cost ~= 0 then
        tats[i] = math.max(now, tats[i] + cost * interval)
        redis.call('SET', key, tats[i], 'EX', math.max(1, math.ceil(tats[i] - now)))
    end
    answer[2 * i] = math.max(0, capacity + math.floor((now - tats[i]) / interval + SLACK))
    answer[2 * i + 1] = tostring(tats[i] - now)
end
return answer
""".replace("SLACK", str(SLACK))


class TakeAllFromRedis(BaseRedisAtomicAction):
    """The step in Redis, by its clock."""

    TYPE = TYPE

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        self._script = self._register_script(SCRIPT)

    async def do(self, keys: Sequence[str], args: Sequence[Any] | None) -> tuple[int | float, ...]:
        """Return whether nothing was taken, and of each key what is left and the seconds to all of it."""
        return tuple(map(float, await self._script(list(keys), list(args or ()))))


class TakeAllFromMemory(BaseMemoryAtomicAction):
    """The step in this process."""

    TYPE = TYPE

    @classmethod
    def _do(
        cls, backend: BaseMemoryStoreBackend, keys: Sequence[str], args: Sequence[Any] | None
    ) -> tuple[int | float, ...]:
        numbers, now = list(args or ()), utils.now_mono_f()
        quotas = list(zip(keys, numbers[::3], numbers[1::3], numbers[2::3], strict=True))
        tats = [max(now, float(backend.get(key) or now)) for key in keys]
        limited = any(
            cost > 0 and cost > _left(capacity, tat - now, interval)
            for tat, (_, interval, capacity, cost) in zip(tats, quotas, strict=True)
        )
        answer: list[int | float] = [int(limited)]
        for tat, (key, interval, capacity, cost) in zip(tats, quotas, strict=True):
            after = tat
            if not limited and cost:
                after = max(now, tat + cost * interval)
                backend.set(key, after, max(1, math.ceil(after - now)))
            answer += max(0, _left(capacity, after - now, interval)), after - now
        return tuple(answer)


def _left(capacity: int, reset_s: float, interval: float) -> int:
    """Return the units that are there, of a quota that is whole again in ``reset_s``."""
    return capacity + math.floor(SLACK - reset_s / interval)
