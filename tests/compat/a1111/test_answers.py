"""What A1111's clients read of an answer."""

import base64
import io
import json

import webuiapi
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sd_backend_client.api.webui.response_formats import GenerationInfoData, ProgressResponseBody

from lego_serve.compat.a1111.answers import (
    Outcome,
    Progress,
    info_of,
    infotext,
    parse_infotext,
    png_info,
    progress,
    result,
)

OUTCOME = Outcome(
    prompt="a cat, red <lora:stripes:0.5>",
    negative_prompt="blurry",
    seeds=(7, 8),
    width=128,
    height=96,
    steps=20,
    guidance=4.5,
    sampler="Euler a",
    model="lego-tiny",
    model_hash="abcdef0123",
    scheduler="karras",
    strength=0.6,
    batch_size=2,
    made_at="20261128233000",
    version="lego_serve 0.1.0",
    replaced=(("Sampler used", "euler"), ("Schedule used", "the model's own, whatever")),
)


def test_a_strict_client_reads_info() -> None:
    """It fails on any key that is missing; each image has its seed and its line."""
    read = GenerationInfoData.model_validate_json(json.dumps(info_of(OUTCOME)))
    assert (read.seed, read.all_seeds, read.all_prompts) == (7, [7, 8], [OUTCOME.prompt] * 2)
    assert (read.job_timestamp, read.sd_model_name, read.denoising_strength) == ("20261128233000", "lego-tiny", 0.6)
    assert read.extra_generation_params["Sampler used"] == "euler"
    assert len(read.infotexts) == 2
    assert info_of(OUTCOME)["steps"] == 20


def test_the_line_is_a1111s() -> None:
    """Values with marks of the line in them are quoted as JSON."""
    assert infotext(OUTCOME, 1) == (
        "a cat, red <lora:stripes:0.5>\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 4.5, Seed: 8, Size: 128x96, "
        "Model hash: abcdef0123, Model: lego-tiny, Denoising strength: 0.6, Sampler used: euler, "
        'Schedule used: "the model\'s own, whatever", Version: lego_serve 0.1.0'
    )


def test_webuiapi_reads_an_answer() -> None:
    """Images without prefix, the request again without its images, and `info` as a text."""
    file = io.BytesIO()
    Image.new("RGB", (8, 4)).save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    asked = {"prompt": "a cat", "init_images": ["AAAA"], "steps": 20}
    answer = json.loads(json.dumps(result([image], asked, OUTCOME)))

    class Response:
        status_code = 200

        def json(self) -> object:
            return answer

    read = webuiapi.WebUIApi(baseurl="http://127.0.0.1:9")._to_api_result(Response())
    assert read.image.size == (8, 4)
    assert read.parameters == {"prompt": "a cat", "steps": 20, "init_images": None}
    assert read.info["infotexts"][0].startswith("a cat")
    assert result([image], asked, OUTCOME, are_sent=False)["images"] == []


def test_idle_is_no_progress_and_no_job() -> None:
    """webuiapi waits for just this."""
    idle = progress(Progress())
    read = ProgressResponseBody.model_validate(idle)
    assert (read.progress, read.state.job_count, read.current_image) == (0.0, 0, None)


def test_progress_is_a_fraction_of_the_steps() -> None:
    """With what remains in seconds, and the image so far."""
    now = Progress(True, "txt2img", "1", step=5, steps=20, eta_s=2.0, image="AAAA", is_interrupted=True)
    read = ProgressResponseBody.model_validate(progress(now))
    assert (read.progress, read.eta_relative, read.current_image) == (0.25, 2.0, "AAAA")
    assert (read.state.sampling_step, read.state.sampling_steps, read.state.interrupted) == (5, 20, True)
    assert progress(Progress(True))["progress"] == 0.0


def test_the_text_of_an_image_is_read_again() -> None:
    """As `png-info` answers it."""
    answer = png_info(infotext(OUTCOME))
    assert answer["info"] == infotext(OUTCOME)
    read = answer["parameters"]
    assert isinstance(read, dict)
    assert (read["Prompt"], read["Negative prompt"], read["Seed"]) == (OUTCOME.prompt, "blurry", "7")
    assert read["Schedule used"] == "the model's own, whatever"
    assert png_info("") == {"info": "", "items": {}, "parameters": {}}


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), max_size=20).map(str.strip)


@given(WORDS, WORDS, st.lists(st.tuples(WORDS.filter(bool), WORDS), max_size=3, unique_by=lambda pair: pair[0]))
def test_what_is_written_is_read_back(prompt: str, negative: str, replaced: list[tuple[str, str]]) -> None:
    """Whatever marks are in names and values."""
    used = [(f"x{name}", f"v{value}") for name, value in replaced]
    outcome = Outcome(prompt, negative, (1,), 8, 8, 1, 1.0, "Euler", "m", replaced=used)
    read = parse_infotext(infotext(outcome))
    assert (read["Prompt"], read["Negative prompt"]) == (prompt, negative)
    assert {name: read[name] for name, _ in used} == dict(used)


@given(st.text(max_size=80))
def test_any_text_is_read(text: str) -> None:
    """A file may hold anything."""
    parse_infotext(text)
    parse_infotext(f"Steps: {text}")
