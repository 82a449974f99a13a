"""Requests to a server at once, from threads, whose images are known beforehand."""

import threading
import time

import httpx2
import numpy as np

from tests.support.e2e.images import PROMPT, pixels
from tests.support.e2e.servers import SEEDS

STEPS = 60


def ask(url: str, **body: object) -> httpx2.Response:
    """One generation, however it ends."""
    body = {"prompt": PROMPT, "num_inference_steps": STEPS} | body
    return httpx2.post(f"{url}/v1/images/generations", json=body, timeout=300)


def undisturbed_images(url: str) -> dict[int, np.ndarray]:
    """The images of SEEDS when nothing happens."""
    return {seed: pixels(ask(url, seed=seed).json()["data"][0]) for seed in SEEDS}


class Asked:
    """Requests of all SEEDS at once, from threads."""

    def __init__(self, url: str, **body: object) -> None:
        self.answers: dict[int, httpx2.Response] = {}
        self.seconds: dict[int, float] = {}  # that each took

        def one(seed: int) -> None:
            started = time.monotonic()
            self.answers[seed] = ask(url, seed=seed, **body)
            self.seconds[seed] = time.monotonic() - started

        self._threads = [threading.Thread(target=one, args=(seed,)) for seed in SEEDS]
        for thread in self._threads:
            thread.start()

    def wait(self) -> float:
        """Wait for all answers; return the seconds of the slowest."""
        for thread in self._threads:
            thread.join()
        return max(self.seconds.values())

    def check(self, wanted: dict[int, np.ndarray]) -> int:
        """Wait for all; every image is the one wanted.  Answers the steps that are known to have been made twice."""
        self.wait()
        for seed, answer in self.answers.items():
            assert answer.status_code == 200, answer.text
            assert np.array_equal(pixels(answer.json()["data"][0]), wanted[seed]), seed
        return sum(answer.json()["lego"]["steps_redone"] for answer in self.answers.values())
