"""Which cell a gateway chooses."""

import random

import pytest

from lego_serve.core.cluster.routing import CellView, NoRoute, Route, Router
from tests.support.cluster.settings import small_costs, small_work

WORK = small_work(costs=small_costs())
RNG = random.Random(0)


def router(*work_s: float, gateways: int = 1, choices: int = 0) -> Router:
    """A gateway that knows cells of two workers each, with so many seconds of work."""
    made = Router(len(work_s), gateways=gateways, choices=choices)
    for cell, seconds in enumerate(work_s):
        made.report(cell, CellView(2, seconds, frozenset("aed"), 0.0))
    return made


def test_the_least_wait_is_chosen_and_another_named_for_a_refusal() -> None:
    """Two seconds of work on two workers are a wait of one."""
    route = router(4.0, 2.0, 3.0).route(WORK, 10.0, 0.0, RNG)
    assert isinstance(route, Route)
    assert (route.cell, route.wait_s, route.others) == (1, 1.0, (2,))


def test_a_report_ages_and_what_was_sent_since_counts() -> None:
    """After a second the wait is over; eight jobs sent to one cell make the next one better."""
    gateway = router(2.0, 8.0)
    cells = [route.cell for _ in range(10) if isinstance(route := gateway.route(WORK, 20.0, 1.0, RNG), Route)]
    assert cells[0] == 0
    assert 1 in cells


def test_gateways_expect_that_others_send_as_much() -> None:
    """One of four sends fewer to the same cell before it turns."""
    alone, among = router(0.0, 4.0), router(0.0, 4.0, gateways=4)
    first = [[g.route(WORK, 20.0, 0.0, RNG) for _ in range(3)] for g in (alone, among)]
    assert [route.cell for route in first[0] if isinstance(route, Route)] == [0, 0, 0]
    assert [route.cell for route in first[1] if isinstance(route, Route)][-1] == 1


def test_what_no_cell_could_serve_is_refused_at_once() -> None:
    """A wait of ten seconds against a limit of one; the refusal says when to come again."""
    found = router(20.0, 30.0).route(WORK, 1.0, 0.0, RNG)
    assert isinstance(found, NoRoute)
    assert found.retry_after_s > 1.0


def test_two_random_cells_are_compared_without_dispatchers() -> None:
    """Not always the least of all, so that old reports do not send everybody to one place."""
    gateway = router(*(float(cell) for cell in range(8)), choices=2)
    routes = [gateway.route(WORK, 50.0, 0.0, random.Random(seed)) for seed in range(20)]
    assert len({route.cell for route in routes if isinstance(route, Route)}) > 2


def test_a_cell_without_the_models_waits_for_their_load() -> None:
    """An idle cell that must load for a second is no better than one that is free in half a second."""
    gateway = Router(2)
    gateway.report(0, CellView(2, 0.0, frozenset(), 0.0))
    gateway.report(1, CellView(2, 1.0, frozenset("aed"), 0.0))
    route = gateway.route(WORK, 10.0, 0.0, RNG)
    assert isinstance(route, Route)
    assert route.cell == 1
    assert route.wait_s == pytest.approx(0.5)
