"""Reads the published traces that the tables use; they lie beside the checkout and are no part of it."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from lego_serve.errors import ConfigError
from lego_serve.sim.cluster import Setting
from lego_serve.sim.workload import Request

FOLDER = Path(__file__).parents[3] / "shared" / "data"
SCALES = ("0.5", "1.0", "2.0", "3.0", "4.0", "6.0", "8.0")


def published(name: str) -> Path | None:
    """Return a published trace, or None where it is not: ``LEGO_SHARED_DATA`` names the folder of published data."""
    path = Path(os.environ.get("LEGO_SHARED_DATA", FOLDER)) / "traces" / name
    return path if path.exists() else None


def diflow_requests(setting: Setting, path: Path) -> list[Request]:
    """Read a trace of DiFlow's artifact: a workflow's letter and the seconds until the next request in each line."""
    now, requests = 0.0, list[Request]()
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        words = text.split()
        if len(words) != 2 or words[0] not in setting.workflows:
            raise ConfigError(f"{path}:{line}: a line is a workflow of {sorted(setting.workflows)} and seconds")
        requests.append(Request(len(requests), now, words[0], setting.slo_s(words[0])))
        try:
            now += float(words[1])
        except ValueError:
            raise ConfigError(f"{path}:{line}: seconds until the next request: {words[1]!r} is no number") from None
    return requests


def gentd_days(path: Path, days: int = 12) -> Iterator[tuple[float, str, float]]:
    """Yield seconds since noon, base model and seconds of running of GenTD26, its last days put over each other.

    A day begins at noon: its requests come between one in the afternoon and seven in the morning.
    """
    by_day: dict[str, list[tuple[float, str, float]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["predict_status"] != "SUCCEED" or not row["exec_time_seconds"]:
                continue
            at = datetime.fromisoformat(row["gmt_create"]) - timedelta(hours=12)
            second = at.hour * 3600.0 + at.minute * 60.0 + at.second
            model = row["checkpoint_model_version_id"]
            by_day[at.date().isoformat()].append((second, model, float(row["exec_time_seconds"])))
    for day in sorted(by_day)[-days:]:
        yield from by_day[day]
