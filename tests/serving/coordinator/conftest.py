"""Coordinators, dispatchers and their calls wait by asyncio's clock alone, so time here is what the tests say it is."""

import asyncio
from collections.abc import Callable, Mapping

from tests.support.clocks import JumpingLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test of this folder in no time: a machine that is held up cannot make anything late."""
    return {"jumping": JumpingLoop}
