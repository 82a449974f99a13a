"""What tests of webhooks share: a clock that stands still while they are not let run."""

import asyncio
from collections.abc import Callable, Mapping

from tests.support.clocks import SteadyLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """No timeout of a sender passes because its tests are not let run."""
    return {"steady": SteadyLoop}
