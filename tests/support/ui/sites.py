"""Sites for tests in a browser, and what has happened there before."""

import threading
import time
from dataclasses import dataclass

import httpx2

from tests.support.gateway.client import Live
from tests.support.ui.lively import LivelyRunner, png

DESK, PHONE = (1280, 800), (390, 844)
HIDE = """state => {
  Object.defineProperty(document, "hidden", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@dataclass
class Site:
    """A gateway's address, and the runner behind it."""

    url: str
    runner: LivelyRunner
    live: Live


def ask(site: Site, key: str = "", **body: object) -> threading.Thread:
    """Ask for an image and go on."""
    headers = {"authorization": f"Bearer {key}"} if key else {}

    def post() -> None:
        json_body = {"prompt": "a", "seed": 1, **body}
        httpx2.post(f"{site.url}/v1/images/generations", json=json_body, headers=headers, timeout=60)

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    return thread


def fill_history(site: Site) -> str:
    """Have requests of several kinds end, templates be kept and a replica be lost; return the id of one request."""
    wanted = [{}, {"n": 3}, {"lora": [{"name": "a"}]}, {"num_inference_steps": 30}, {"model": "nope"}]
    with httpx2.Client(base_url=site.url, timeout=30) as client:
        for seed, body in enumerate(wanted):
            client.post("/v1/images/generations", json={"prompt": "a", "seed": seed, **body})
        for seed, name in ((3, "shop-window"), (6, "postcard")):
            client.post(
                "/v1/templates", files={"image": png(128, 128, seed)}, data={"name": name, "model": "lego-tiny"}
            )
        client.get("/v1/admin/overview")
        site.runner.lose(site.runner.backbones[0])
        rows = client.get("/v1/admin/requests", params={"outcome": "ok"}).json()["data"]
    return str(rows[0]["id"])


def keep_busy(site: Site, count: int = 9, seconds: float = 60.0) -> threading.Event:
    """Have requests run for so long, some with adapters; the event ends it."""
    stop, ends = threading.Event(), time.monotonic() + seconds

    def go_on(index: int) -> None:
        body: dict[str, object] = {"prompt": "a", "num_inference_steps": 40 + 7 * index, "seed": index}
        if index % 4 == 1:
            body["lora"] = [{"name": "a"}]
        while not stop.is_set() and time.monotonic() < ends:
            httpx2.post(f"{site.url}/v1/images/generations", json=body, timeout=60)

    for index in range(count):
        threading.Thread(target=go_on, args=(index,), daemon=True).start()
    return stop
