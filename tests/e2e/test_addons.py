"""Adapters and ControlNets, served: Ray, every node, a gateway, over HTTP."""

import os
import re
import signal
import time

import httpx2
import numpy as np
import pytest

from tests.support.e2e import addons as parts
from tests.support.e2e.addons import STORAGE_S, Together, ask, made, net, style
from tests.support.e2e.servers import Server

pytestmark = pytest.mark.ray
LONG = 60  # steps of requests in whose middle something dies
NEAR_BITS = 3  # of 255: products of weights merged and weights with products added are rounded differently


def test_an_adapter_changes_the_image_and_is_at_hand_the_second_time(addons: Server) -> None:
    """The answer tells of its load, which overlaps nothing it need not wait for; scale 0 is the model itself."""
    plain, lego = made(addons)
    assert "adapters" not in lego
    before = counted(addons)
    first, cold = made(addons, lora=style(4))
    [used] = cold["adapters"]
    assert (used["name"], used["cache"], used["steps_without_adapter"]) == ("style-4", "miss", 0)
    assert used["steps_active"] == parts.STEPS
    assert STORAGE_S <= used["load_s"] < 20
    again, warm = made(addons, lora=style(4))
    assert (warm["adapters"][0]["cache"], warm["adapters"][0]["load_s"]) == ("hit", 0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, plain)
    assert np.array_equal(made(addons, lora=style(4, scale=0))[0], plain)
    assert [after - b for after, b in zip(counted(addons), before, strict=True)] == [1, 2]
    told_s = cold["nodes"]["adapters"]
    if told_s >= STORAGE_S:  # once more with another that was never asked for: a process may have been held up
        told_s = made(addons, lora=style(11))[1]["nodes"]["adapters"]
    assert told_s < STORAGE_S  # what it is was told long before it had come


def test_several_adapters_of_a_request_are_loaded_at_the_same_time(addons: Server) -> None:
    """Also when other requests bring several too; the images are those of adapters that are at hand."""
    bodies = [{"lora": [*style(12), *style(13)]}, {"lora": [*style(14), *style(15), *style(12, end=0.5)]}]
    cold = Together(addons, bodies).images()
    for image, body in zip(cold, bodies, strict=True):
        warm, lego = made(addons, **body)
        assert np.array_equal(image, warm)
        assert {used["cache"] for used in lego["adapters"]} == {"hit"}


def counted(server: Server) -> tuple[int, ...]:
    """Adapters of lego-tiny that were loaded, and that were at hand."""
    page = httpx2.get(f"{server.url}/metrics", timeout=30).text
    names = ("lego_serve_adapter_loads_total", "lego_serve_adapter_hits_total")
    found = (re.search(rf'^{name}\{{model="lego-tiny"\}} (\S+)$', page, re.M) for name in names)
    return tuple(0 if match is None else int(float(match[1])) for match in found)


def test_requests_with_different_adapters_run_together_to_the_bits_of_each_alone(addons: Server) -> None:
    """Adapters of the text encoder too, several in one request, a ControlNet near and far, and none."""
    bodies: list[dict] = [
        {},
        {"lora": style(1)},
        {"lora": style(2, scale=0.5)},
        {"lora": style(3)},
        {"lora": [*style(1, end=0.5), *style(2, start=0.5)]},
        {"controlnet": net("near"), "lora": style(1)},
        {"controlnet": net("far")},
        {"controlnet": [*net("far", weight=0.5), *net("lonely", end=0.5)]},
    ]
    alone = [made(addons, **body)[0] for body in bodies]
    for index, image in enumerate(Together(addons, bodies).images()):
        assert np.array_equal(image, alone[index]), bodies[index]
        assert not any(np.array_equal(image, other) for other in alone[:index])


def test_weights_patched_in_place_give_nearly_the_images_of_added_products(addons: Server) -> None:
    """Whatever else is asked for at the same time; and what they were before, to the bit, when it is over."""
    sets = [style(0), style(1, scale=-0.5), [*style(1), *style(2)]]
    bodies = [{"model": "patched", "lora": lora} for lora in sets]
    plain = {"model": "patched", "lora": style(0, scale=0)}
    before = made(addons, **plain)[0]
    assert np.array_equal(before, made(addons)[0])
    alone = [made(addons, **body)[0] for body in bodies]
    *together, still_plain = Together(addons, [*bodies, plain]).images()
    for lora, image, other in zip(sets, alone, together, strict=True):
        assert np.array_equal(image, other), lora
        grouped = made(addons, lora=lora)[0].astype(int)
        assert abs(grouped - image).max() <= NEAR_BITS, lora
        assert abs(grouped - before).max() > 10 * NEAR_BITS, lora
    assert np.array_equal(still_plain, before)
    assert np.array_equal(made(addons, **plain)[0], before)


def test_a_controlnet_gives_the_same_image_wherever_it_runs(addons: Server) -> None:
    """In the backbone's process and in its own deployment; the answer says which were used, and where."""
    plain, _ = made(addons)
    near, lego = made(addons, controlnet=net("near"))
    [used] = lego["controlnets"]
    assert (used["name"], used["placement"], used["cache"]) == ("near", "colocated", "miss")
    assert len(used["ran"]) == used["steps_active"] == parts.STEPS
    assert not np.array_equal(near, plain)
    assert np.array_equal(made(addons, controlnet=net("far"))[0], near)
    assert np.array_equal(made(addons, controlnet=net("far", weight=0))[0], plain)


def test_two_remote_controlnets_of_a_request_run_at_the_same_time(addons: Server) -> None:
    """Its trace has each one's passes: of a step they overlap, and steps follow one another."""
    body = {"controlnet": [*net("far"), *net("lonely")], "size": "256x256"}
    made(addons, **body)
    far, lonely = made(addons, **body)[1]["controlnets"]
    assert [far["placement"], lonely["placement"]] == ["remote", "remote"]
    assert len(far["ran"]) == len(lonely["ran"]) == parts.STEPS
    passes = list(zip(far["ran"], lonely["ran"], strict=True))
    overlapping = [max(a[0], b[0]) < min(a[1], b[1]) for a, b in passes]
    assert sum(overlapping) > parts.STEPS / 2, passes
    ends = [max(a[1], b[1]) for a, b in passes]
    assert all(end <= min(a[0], b[0]) for end, (a, b) in zip(ends[:-1], passes[1:], strict=True))


@pytest.mark.parametrize(
    ("name", "status", "code", "words"),
    [
        ("nobody", 404, "adapter_not_found", "nobody"),
        ("broken", 400, "invalid_adapter", "zip archive"),
        ("strange", 400, "invalid_adapter", "model lego-tiny does not let adapters change"),
        ("nan", 400, "invalid_adapter", "no finite numbers"),
        ("huge", 400, "invalid_adapter", "over 10000"),
        ("other-model", 400, "invalid_adapter", "made for flux, as it says, and model lego-tiny is sd3"),
    ],
)
def test_what_is_wrong_with_an_adapter_is_told_in_one_line(
    addons: Server, name: str, status: int, code: str, words: str
) -> None:
    """No path comes back, the next request is served, and nothing of it has touched the model, patched or not."""
    plain = made(addons)[0]
    for model in ("lego-tiny", "patched"):
        answer = ask(addons, model=model, lora=[{"name": name}])
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (status, code, "lora[0].name")
        assert words.replace("lego-tiny", model) in error["message"]
        assert "/" not in error["message"]
    assert np.array_equal(made(addons)[0], plain)
    assert np.array_equal(made(addons, model="patched", lora=style(0, scale=0))[0], plain)


def test_an_unknown_controlnet_is_not_found(addons: Server) -> None:
    """404, by name."""
    assert ask(addons, controlnet=net("nobody")).status_code == 404


def registered(server: Server, method: str, tail: str = "", **body: str) -> httpx2.Response:
    """An order about lego-tiny's adapters."""
    more = {"json": body | {"model": "lego-tiny"}} if body else {"params": {"model": "lego-tiny"}}
    return httpx2.request(method, f"{server.url}/v1/admin/adapters{tail}", timeout=60, **more)


def test_an_operator_registers_an_adapter_under_a_root(addons: Server) -> None:
    """It serves at once; the registry is bounded, and what was registered can be removed."""
    for path, status in (
        ("../late.safetensors", 400),
        ("/etc/passwd", 400),
        ("more/none.safetensors", 404),
        ("nan.safetensors", 400),
        ("other-model.safetensors", 400),
    ):
        assert registered(addons, "POST", id="late", path=path).status_code == status, path
    assert registered(addons, "POST", id="late", path="more/late.safetensors").status_code == 200
    full = registered(addons, "POST", id="later", path="more/late.safetensors")
    assert (full.status_code, full.json()["error"]["code"]) == (429, "registry_full")
    listed = {card["id"]: card["registered"] for card in registered(addons, "GET").json()["data"]}
    assert (listed["late"], listed["style-0"]) == (True, False)
    made(addons, lora=[{"name": "late"}])
    assert registered(addons, "DELETE", "/late").status_code == 200
    assert ask(addons, lora=[{"name": "late"}]).status_code == 404
    assert httpx2.get(f"{addons.url}/v1/admin/adapters", timeout=30).status_code == 400  # of two models: which?


def test_an_operator_sees_what_an_adapter_is_and_where(addons: Server) -> None:
    """One by name, or in the list; a model that is not there is told by its name."""
    made(addons, lora=style(9))
    card = registered(addons, "GET", "/style-9").json()
    assert (card["id"], card["model"], card["rank"], card["components"]) == ("style-9", "lego-tiny", 3, ["transformer"])
    assert "lora" in card["resident"]
    assert any(place.startswith("backbone:") for place in card["resident"])
    listed = {one["id"]: one for one in registered(addons, "GET").json()["data"]}
    assert listed["style-9"]["resident"] == card["resident"]
    assert listed["style-9"]["bytes"] == card["bytes"]
    unknown = httpx2.get(f"{addons.url}/v1/admin/adapters", params={"model": "lego-tyny"}, timeout=30)
    assert unknown.status_code == 404
    assert "did you mean lego-tiny?" in unknown.json()["error"]["message"]


def test_a_client_sees_what_a_model_may_be_asked_with(addons: Server) -> None:
    """Before it asks, and in one place."""
    cards = {one["id"]: one["lego"] for one in httpx2.get(f"{addons.url}/v1/models", timeout=30).json()["data"]}
    assert cards["lego-tiny"]["controlnets"] == ["far", "lonely", "near"]
    assert "style-0" in cards["lego-tiny"]["adapters"]
    assert cards["patched"]["controlnets"] == []


def test_a_range_without_a_step_is_told(addons: Server) -> None:
    """It is served as if nothing had been asked for, and the answer says so."""
    image, lego = made(addons, lora=style(10, start=0.99), controlnet=net("near", start=0.01, end=0.02))
    assert [used["steps_active"] for used in (*lego["adapters"], *lego["controlnets"])] == [0, 0]
    assert np.array_equal(image, made(addons)[0])


def test_a_lora_node_that_dies_among_loads_costs_no_request_and_no_registration(addons: Server) -> None:
    """kill -9 while adapters are on their way: they come from the one that takes its place."""
    [pid] = found(addons, "lego-tiny.adapters", 1)
    assert registered(addons, "POST", id="kept", path="more/late.safetensors").status_code == 200
    bodies = [{"lora": style(number)} for number in range(5, 9)]
    asked = Together(addons, bodies)
    time.sleep(STORAGE_S / 2)
    os.kill(pid, signal.SIGKILL)
    images = asked.images()
    for number, (image, body) in enumerate(zip(images, bodies, strict=True)):
        alone, lego = made(addons, **body)
        off = abs(image.astype(int) - alone).max()
        assert off == 0, (body, off, asked.answers[number].json()["lego"], lego)
    assert all(answer.json()["lego"]["adapters"][0]["cache"] == "miss" for answer in asked.answers.values())
    listed = {card["id"]: card["registered"] for card in registered(addons, "GET").json()["data"]}
    assert listed["kept"]
    made(addons, lora=[{"name": "kept"}])
    assert registered(addons, "DELETE", "/kept").status_code == 200


def test_lanes_go_on_when_a_remote_controlnet_dies(addons: Server) -> None:
    """kill -9 of one of its two replicas in the middle of the work costs no request and no bit."""
    body = {"controlnet": net("far"), "num_inference_steps": LONG}
    wanted = made(addons, **body)[0]
    pids = found(addons, "far.controlnet", 2)
    asked = Together(addons, [body] * 3)
    time.sleep(0.7)
    os.kill(pids[0], signal.SIGKILL)
    assert all(np.array_equal(image, wanted) for image in asked.images())


def test_lanes_without_a_controlnet_go_on_while_its_only_replica_is_replaced(addons: Server) -> None:
    """Those with it wait, for seconds, and end with the bits they have undisturbed; the others hardly wait."""
    body = {"controlnet": net("lonely"), "num_inference_steps": LONG}
    wanted = made(addons, **body)[0]
    [pid] = found(addons, "lonely.controlnet", 1)
    for _ in range(5):  # where this process is held up, the image is there before
        asked = Together(addons, [body])
        time.sleep(0.7)
        if not asked.answers:
            break
    assert not asked.answers
    os.kill(pid, signal.SIGKILL)
    killed, others = time.monotonic(), []
    while not asked.answers:
        others.append(made(addons)[1]["nodes"]["latents"])
    away_s = time.monotonic() - killed
    assert all(np.array_equal(image, wanted) for image in asked.images())
    assert max(others) < away_s / 2
    assert len(others) > 2


def found(server: Server, app: str, count: int) -> list[int]:
    """The processes of a deployment's replicas, idle, as soon as there are so many."""
    limit = time.monotonic() + 120
    while len(pids := parts.replicas(server, app)) != count:
        assert time.monotonic() < limit, f"{app} has {len(pids)} replicas and not {count}"
        time.sleep(0.2)
    return pids
