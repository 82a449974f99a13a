from pathlib import Path

import pytest

from benchmarks.hostile.__main__ import carry_out
from benchmarks.hostile.attacks import ATTACKS
from benchmarks.hostile.gateway import Gateway, OwnGateway, usage_of
from benchmarks.hostile.payloads import generation
from benchmarks.hostile.probe import is_alive
from benchmarks.hostile.wire import exchange

ROOT = Path(__file__).parents[3]


def test_a_gateway_of_somebody_else_is_not_replaced() -> None:
    """Its address is that of the URL; where it is gone the run ends with words."""
    gateway = Gateway("http://127.0.0.1:9/")
    assert gateway.address == ("127.0.0.1", 9)
    assert usage_of(gateway.pid) is None
    assert not is_alive(gateway.address, 1.0)
    with pytest.raises(RuntimeError, match="start it again"):
        gateway.replace()


def test_a_checkouts_gateway_is_attacked_replaced_and_ended() -> None:
    """It makes images over the stand-in; an attack on it is measured; a new process has the same address."""
    gateway = OwnGateway(ROOT)
    try:
        assert exchange(gateway.address, [generation(1)], 30.0).answer == "200"
        first = gateway.pid
        outcome = carry_out("images", ATTACKS["an image of 16,000,000 x 1"], "this", gateway, 0.1, 0.1)
        assert outcome.rss is not None
        assert outcome.rss[0] > 10_000_000
        assert outcome.sent > 10_000
        if not outcome.was_replaced:
            gateway.replace()
        assert gateway.pid != first
        assert is_alive(gateway.address, 30.0)
    finally:
        gateway.stop()
    assert not is_alive(gateway.address, 1.0)
