"""One thread computes at a time, and the most urgent is next."""

import threading
import time

from lego_serve.engine.sharing.compute_turns import ComputeTurns


def test_the_most_urgent_of_those_that_wait_is_next() -> None:
    """Whoever came first; among equals that decides."""
    turns, order = ComputeTurns(), list[str]()
    threads = []

    def compute(name: str, due_s: float) -> None:
        with turns.turn(due_s):
            order.append(name)

    with turns.turn(0.0):
        for count, (name, due_s) in enumerate((("late", 9.0), ("soon", 1.0), ("also late", 9.0)), start=1):
            threads.append(threading.Thread(target=compute, args=(name, due_s)))
            threads[-1].start()
            while turns.waiting < count:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == ["soon", "late", "also late"]


def test_never_do_two_compute_at_once() -> None:
    """Nor does one that fails keep its turn."""
    turns, inside, most = ComputeTurns(), 0, 0

    def compute(number: int) -> None:
        nonlocal inside, most
        for _ in range(50):
            try:
                with turns.turn(float(number)):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0)
                    inside -= 1
                    if number == 0:
                        raise ValueError("it fails")
            except ValueError:
                continue

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_whoever_will_not_wait_computes_only_where_nobody_else_does() -> None:
    """Nor is between two turns of its work; it takes the turn where it may, and gives it back."""
    turns = ComputeTurns()
    with turns.turn(0.0), turns.turn_if_idle() as is_mine:
        assert not is_mine
    turns.note_working("a lane", is_working=True)
    with turns.turn_if_idle() as is_mine:
        assert not is_mine
    turns.note_working("a lane", is_working=False)
    with turns.turn_if_idle() as is_mine, turns.turn_if_idle() as is_too:
        assert (is_mine, is_too) == (True, False)
    with turns.turn(0.0):
        pass
