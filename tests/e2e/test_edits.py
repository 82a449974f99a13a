"""Edits where a mask says, from a real server: what changes, what stays, and what was read in place of computing it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from lego_serve.image_metrics import ssim
from lego_serve.zoo.judge.prompts import faults
from lego_serve.zoo.world.edit_tasks import EditTask, held_out_edits
from tests.support.e2e.images import mask_file, pixels, png
from tests.support.e2e.template_stats import settle

pytestmark = pytest.mark.ray
SIDE = 128


def edited(server, task: EditTask, **fields: str) -> dict[str, Any]:
    """The answer to an edit, its mask without a fading edge."""
    files = {"image": png(task.template.numpy()), "mask": mask_file(task.mask.numpy())}
    data = {"prompt": task.after.text, "seed": "5", "mask_feather": "0"} | fields
    answer = httpx2.post(f"{server.url}/v1/images/edits", files=files, data=data, timeout=120)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.fixture(scope="module")
def tasks() -> list[EditTask]:
    """A few edits whose outcome can be told."""
    return held_out_edits(4, SIDE)


def test_a_masked_edit_changes_what_it_is_asked_to_and_nothing_else(server, tasks) -> None:
    """The thing in the mask becomes another, with and without reading; every pixel outside is the template's."""
    for reuse in ("exact", "high", "balanced"):
        right = 0
        for task in tasks:
            made = pixels(edited(server, task, reuse=reuse)["data"][0])
            outside = ~task.mask.numpy()
            assert np.array_equal(made[outside], task.template.numpy()[outside])
            right += not faults(task.after, made)
        assert right >= len(tasks) - 1


def test_a_known_template_is_read_and_not_primed_again(server, tasks) -> None:
    """The answer says which part of which steps was computed, and the same request has the same bits.

    Whichever gateway it comes to: replicas say what they have.
    """
    before = settle(server)
    first = edited(server, tasks[0], reuse="high", num_inference_steps="12", seed="9")
    settle(server, before + first["lego"]["reuse"]["primed"])
    again = edited(server, tasks[0], reuse="high", num_inference_steps="12", seed="9")
    assert first["data"] == again["data"]
    reuse = again["lego"]["reuse"]
    assert (reuse["quality"], reuse["masked_steps"], reuse["steps"], reuse["primed"]) == ("high", 12, 12, 0)
    assert 0 < reuse["active_rows"] < reuse["rows"] / 2 == 32


def test_edits_of_templates_known_and_not_share_batches_with_other_lanes(server, tasks) -> None:
    """All at once they have the bits each has alone."""
    alone = [edited(server, task, seed="3")["data"][0]["b64_json"] for task in tasks]
    body = {"prompt": "a red circle", "num_inference_steps": 30}
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(httpx2.post, f"{server.url}/v1/images/generations", json=body, timeout=120) for _ in "ab"]
        found = list(pool.map(lambda task: edited(server, task, seed="3")["data"][0]["b64_json"], tasks))
        assert all(other.result().status_code == 200 for other in others)
    assert found == alone


def test_a_mask_of_nothing_returns_the_image_and_one_of_everything_makes_a_new_one(server, tasks) -> None:
    """The first asks no model; the second has the bits of a generation."""
    template = tasks[0].template.numpy()
    nothing = httpx2.post(
        f"{server.url}/v1/images/edits",
        files={"image": png(template), "mask": mask_file(np.zeros((SIDE, SIDE), dtype=bool))},
        data={"prompt": "a red circle", "n": "2", "output_format": "webp"},
        timeout=30,
    ).json()
    assert [np.array_equal(pixels(each), template) for each in nothing["data"]] == [True, True]
    assert nothing["lego"]["nodes"] == {}
    whole = httpx2.post(
        f"{server.url}/v1/images/edits",
        files={"image": png(template), "mask": mask_file(np.ones((SIDE, SIDE), dtype=bool))},
        data={"prompt": "a red circle", "seed": "4"},
        timeout=60,
    ).json()
    body = {"prompt": "a red circle", "seed": 4, "size": f"{SIDE}x{SIDE}"}
    made = httpx2.post(f"{server.url}/v1/images/generations", json=body, timeout=60).json()
    assert whole["data"] == made["data"]


def test_the_openai_client_edits_with_a_mask_and_streams(server, tasks) -> None:
    """As it is, with previews; the last event is the image a request without a stream gets."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    task = tasks[1]
    files = {"image": ("a.png", png(task.template.numpy())), "mask": ("m.png", mask_file(task.mask.numpy()))}
    body = {"seed": 5, "mask_feather": 0, "num_inference_steps": 40}
    events = list(client.images.edit(**files, prompt=task.after.text, stream=True, partial_images=1, extra_body=body))
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    plain = edited(server, task, num_inference_steps="40")
    assert events[-1].b64_json == plain["data"][0]["b64_json"]


def registered(server, task: EditTask, **fields: str) -> dict[str, Any]:
    """The card of a template that is registered now."""
    files = {"image": png(task.template.numpy())}
    answer = httpx2.post(f"{server.url}/v1/templates", files=files, data=fields, timeout=60)
    assert answer.status_code in (200, 201), answer.text
    card: dict[str, Any] = answer.json()
    return card


def of_template(server, task: EditTask, name: str, **fields: str) -> httpx2.Response:
    """The answer to an edit that names a template."""
    files = {"mask": mask_file(task.mask.numpy())}
    data = {"prompt": task.after.text, "seed": "5", "mask_feather": "0", "template": name} | fields
    return httpx2.post(f"{server.url}/v1/images/edits", files=files, data=data, timeout=120)


def test_a_template_is_registered_warmed_edited_and_removed(server) -> None:
    """Warm, its first edit primes nothing; what it takes is what was predicted; removed, it is gone everywhere."""
    task = held_out_edits(6, SIDE)[5]  # which no other test has edited
    card = registered(server, task, name="warm", pin="true")
    url = f"{server.url}/v1/templates/{card['id']}"
    assert httpx2.get(url, timeout=30).json()["replicas"] == []
    before = settle(server)
    warm = httpx2.post(f"{url}/warm", json={"steps": 10, "wait": True}, timeout=60).json()
    assert (warm["status"], warm["primed"]) == ("done", 10)
    assert 2 * warm["bytes_predicted"] == card["bytes_predicted"]
    [place] = httpx2.get(url, timeout=30).json()["replicas"]
    assert place["bytes"] == pytest.approx(warm["bytes_predicted"], rel=0.05)
    settle(server, before + warm["primed"])
    edit = of_template(server, task, card["id"], num_inference_steps="10").json()
    assert (edit["lego"]["reuse"]["masked_steps"], edit["lego"]["reuse"]["primed"]) == (10, 0)
    assert edit["data"] == edited(server, task, num_inference_steps="10")["data"]
    assert registered(server, task)["id"] == card["id"]
    assert httpx2.delete(url, timeout=30).status_code == 204
    for _ in range(4):  # whichever gateway is asked
        assert of_template(server, task, card["id"]).json()["error"]["code"] == "template_not_found"
        assert httpx2.get(url, timeout=30).status_code == 404
    again = registered(server, task)
    assert again["id"] == card["id"]
    assert httpx2.get(url, timeout=30).json()["replicas"] == []
    assert httpx2.delete(url, timeout=30).status_code == 204


def test_a_templates_caption_primes_what_its_edits_read(server) -> None:
    """Warm with it, an edit of the template primes nothing; nor does one of the image that says the same words."""
    task = held_out_edits(7, SIDE)[6]  # which no other test has edited
    card = registered(server, task, caption=task.before.text)
    url = f"{server.url}/v1/templates/{card['id']}"
    before = settle(server)
    warm = httpx2.post(f"{url}/warm", json={"steps": 10, "wait": True}, timeout=60).json()
    assert (card["caption"], warm["primed"]) == (task.before.text, 20)
    [place] = httpx2.get(url, timeout=30).json()["replicas"]
    assert place["bytes"] == pytest.approx(warm["bytes_predicted"], rel=0.05)
    assert 2 * warm["bytes_predicted"] == card["bytes_predicted"]
    settle(server, before + warm["primed"])
    named = of_template(server, task, card["id"], num_inference_steps="10").json()
    settle(server)  # an edit that is compared with its full computation keeps its replica busy
    same = edited(server, task, num_inference_steps="10", caption=task.before.text)
    settle(server)
    bare = edited(server, task, num_inference_steps="10")  # which reads what the negative prompt's branch has
    assert [each["lego"]["reuse"]["primed"] for each in (named, same, bare)] == [0, 0, 0]
    assert named["data"] == same["data"] != bare["data"]
    full = edited(server, task, num_inference_steps="10", reuse="exact")
    whole, *read = (pixels(each["data"][0]) for each in (full, named, bare))
    described, not_described = (ssim(each, whole, task.mask.numpy()) for each in read)
    assert described > 0.95
    assert described > not_described
    refused = of_template(server, task, card["id"], caption="word " * 60)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "prompt_too_long", "caption")
    assert httpx2.delete(url, timeout=30).status_code == 204
