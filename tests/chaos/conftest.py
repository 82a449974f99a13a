"""What chaos tests share: the clock of their clients, which stands still while this process is held up."""

import asyncio
from collections.abc import Callable, Mapping

from tests.support.clocks import SteadyLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """What a server takes is counted, and not what its clients are late by."""
    return {"steady": SteadyLoop}
