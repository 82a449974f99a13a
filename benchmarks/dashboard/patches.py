"""What a large cluster's stream says, in twenty patches a second: more than a gateway sends, and with as much in it.

Rows move on twice a second, replicas once, figures each time, and series every two seconds, as the pages expect it.
"""

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

PATCHES_S = 20
ROWS_HZ, REPLICAS_HZ = 2, 1


def patches(snapshot: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield patches to a snapshot for ever, each for a twentieth of a second."""
    rows, replicas = list(snapshot["requests"].items()), list(snapshot["replicas"].items())
    series, overview = snapshot["series"], snapshot["overview"]
    last = max(len(points) for points in series["series"].values())
    for number in itertools.count(1):
        patch: dict[str, Any] = {
            "requests": {name: _moved_row(row, number) for name, row in _turn(rows, number, ROWS_HZ)},
            "replicas": {name: _moved_replica(card, number) for name, card in _turn(replicas, number, REPLICAS_HZ)},
            "overview": _moved_overview(overview, number),
        }
        seconds, rest = divmod(number, PATCHES_S)
        if not rest and not seconds % series["step_s"]:
            point = seconds // series["step_s"]
            at = series["from"] + (last + point - 1) * series["step_s"]
            values = {name: [_near(points, point)] for name, points in series["series"].items()}
            patch["series"] = {"object": "series", "step_s": series["step_s"], "from": at, "series": values}
        yield patch


def event(name: str, number: int, data: Mapping[str, Any]) -> bytes:
    """Return an event as a gateway sends it."""
    text = json.dumps({"at": round(time.time(), 3), **data}, separators=(",", ":"))
    return f"event: {name}\nid: large.{number}\ndata: {text}\n\n".encode()


def data_of(sent: bytes) -> dict[str, Any]:
    """Return what an event says."""
    data: dict[str, Any] = json.loads(sent.decode().partition("data: ")[2])
    return data


def _turn(cards: list[Any], number: int, hertz: int) -> list[Any]:
    """Return those whose turn it is, when each has its turn so often in a second."""
    return cards[number % (PATCHES_S // hertz) :: PATCHES_S // hertz]


def _moved_row(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    step = (row["step"] + number // (PATCHES_S // ROWS_HZ)) % max(1, row["steps"])
    age_s = round(row["age_s"] + number / PATCHES_S, 3)
    return {"step": step, "age_s": age_s, "eta_s": round((row["steps"] - step) * 0.05, 2)}


def _moved_replica(card: Mapping[str, Any], number: int) -> dict[str, Any]:
    running = (card["load"]["running"] + number) % 9
    return {"load": {**card["load"], "running": running, "recent": [number % 8, running]}}


def _moved_overview(overview: Mapping[str, Any], number: int) -> dict[str, Any]:
    counts = {**overview["counts"], "ok": overview["counts"]["ok"] + number, "waiting": number % 50}
    latency = {"p50": 1.0 + number % 7 / 10, "p95": 2.0 + number % 9 / 10, "p99": 4.0}
    return {"counts": counts, "latency": latency}


def _near(points: list[float | None], number: int) -> float:
    known = [point for point in points if point is not None]
    return (known[-1] if known else 1.0) + number % 5 / 10
