"""Speaks to the Images API through litellm: python litellm_client.py URL IMAGE; prints what it heard as JSON."""

import json
import sys

import litellm


def main(url: str, image: str) -> None:
    """Generate, edit, and meet a refusal."""
    words = {"model": "openai/lego-tiny", "api_base": f"{url}/v1", "api_key": "none"}
    prompt = "a large red circle on the left, blue background"
    made = litellm.image_generation(prompt=prompt, size="128x96", n=2, seed=5, num_inference_steps=8, **words)
    with open(image, "rb") as file:
        edited = litellm.image_edit(image=file, prompt="a green square", **words)
    try:
        litellm.image_generation(prompt=prompt, n=99, **words)
        refusal = ""
    except litellm.exceptions.BadRequestError as error:
        refusal = str(error)
    heard = {"made": [each.b64_json for each in made.data], "edited": edited.data[0].b64_json, "refusal": refusal}
    print(json.dumps(heard))  # noqa: T201


main(*sys.argv[1:])
