"""PNGs that carry their request, so that an image can be made again."""

import base64
import io
import json

from PIL import Image

from tests.support.gateway.client import file_of, registered

URL = "/v1/images/generations"


async def texts_of(client, body: dict[str, object]) -> list[dict[str, str]]:
    """The texts in the PNGs of an answer."""
    data = (await client.post(URL, json=body)).json()["data"]
    return [Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))).text for image in data]


async def test_a_png_carries_its_request_where_that_is_wanted(client) -> None:
    """With the seed of each image, and without what says how the answer comes."""
    body = {"prompt": "ein Würfel", "seed": 5, "n": 2, "guidance_scale": 3.0, "user": "somebody", "embed_request": True}
    first, second = await texts_of(client, body)
    wanted = {"path": URL, "body": {"prompt": "ein Würfel", "seed": 5, "n": 1, "guidance_scale": 3.0}}
    assert json.loads(first["lego_serve"]) == wanted
    assert json.loads(second["lego_serve"])["body"]["seed"] == 6


async def test_a_png_carries_no_request_unasked(client) -> None:
    """A prompt leaves with the file only where its author wants that."""
    assert await texts_of(client, {"prompt": "a", "seed": 5}) == [{"seed": "5"}]


async def test_a_templates_image_is_its_owners(client) -> None:
    """As it was registered; unknown ones are 404."""
    card = await registered(client, shade=70)
    answer = await client.get(f"/v1/templates/{card['id']}/image")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == Image.open(io.BytesIO(file_of(70))).size
    assert (await client.get("/v1/templates/tmpl_000000000000000000000000/image")).status_code == 404
