"""Every field that OpenAI's SDK can send has a decision, and every answer is what its types say."""

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import httpx2
import pytest
from openai import AsyncOpenAI, BadRequestError
from openai.types import ImageEditCompletedEvent, ImageGenCompletedEvent, ImagesResponse
from openai.types.image_edit_params import ImageEditParamsNonStreaming, ImageEditParamsStreaming
from openai.types.image_generate_params import ImageGenerateParamsNonStreaming, ImageGenerateParamsStreaming

from lego_serve.core.jobs.job import TaskStats
from lego_serve.gateway.requests.schemas import EditRequest, GenerationRequest
from tests.support.gateway.client import file_of, mask_of


@dataclass(frozen=True)
class Decision:
    """What becomes of a field: values that are taken, values that are refused by its name, and whether it matters."""

    taken: tuple[Any, ...] = ()
    refused: tuple[Any, ...] = ()
    has_effect: bool = True


HONOURED = {
    "prompt": Decision(("a red circle",), ("",)),
    "model": Decision(("lego-tiny", "gpt-image-1", None)),
    "n": Decision((1, 10, None), (0, 11)),
    "size": Decision(("auto", "128x96", None), ("1024x1024", "128", "100x100")),
    "quality": Decision(("low", "medium", "high", "xhigh", "max", "auto", "standard", "hd", None), ("best",)),
    "output_format": Decision(("png", "webp", "jpeg", None), ("gif", "svg")),
    "output_compression": Decision((100, None), (50, 101)),  # less than 100 needs another format than PNG
    "background": Decision(("opaque", "auto", None), ("transparent",)),
    "response_format": Decision(("b64_json", None), ("url",)),  # links need an address that clients can be told
    "partial_images": Decision((0, None), (2, 4)),  # more than none needs a stream
    "stream": Decision((True, False, None), ("yes please",)),
    "safety_identifier": Decision(("s", None)),
    "user": Decision(("u",)),
}
WITHOUT_EFFECT = {
    "moderation": Decision(("low", "auto", None), has_effect=False),
    "style": Decision(("vivid", "natural", None), has_effect=False),
}
REFUSED = {
    "complexity": Decision(refused=("low", "medium", "high")),
    "frame_count": Decision(refused=(9,)),
    "frame_duration_ms": Decision(refused=(200,)),
    "svg": Decision(refused=({"model": "gpt-5"},)),
}
GENERATE = HONOURED | WITHOUT_EFFECT | REFUSED
EDIT = {name: decision for name, decision in GENERATE.items() if name not in WITHOUT_EFFECT} | {
    "image": Decision(),  # both files are in tests of their own
    "mask": Decision(),
    "markup": Decision(refused=(("markup.png", file_of()),)),
    "input_fidelity": Decision(("low",), ("high",), has_effect=False),
}
PARAMS = {
    "generate": (GENERATE, ImageGenerateParamsNonStreaming, ImageGenerateParamsStreaming),
    "edit": (EDIT, ImageEditParamsNonStreaming, ImageEditParamsStreaming),
}
TAKEN = [(way, name, v) for way, (table, *_) in PARAMS.items() for name, d in table.items() for v in d.taken]
NOT_TAKEN = [(way, name, v) for way, (table, *_) in PARAMS.items() for name, d in table.items() for v in d.refused]
FILES = {"image": ("image.png", file_of()), "mask": ("mask.png", mask_of())}
INPUTS = {"prompt": "a", "extra_body": {"seed": 1}}


def literals(annotation: Any) -> set[Any]:
    """The words that a type lists; none where it takes any text."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return set(parts)
    return set() if str in parts else {word for part in parts for word in literals(part)}


def hints(way: str) -> dict[str, Any]:
    """What the SDK's types say of the fields of its method."""
    return {name: hint for params in PARAMS[way][1:] for name, hint in get_type_hints(params).items()}


@pytest.fixture
async def openai(client: httpx2.AsyncClient) -> AsyncOpenAI:
    """OpenAI's SDK, as it comes, before the gateway."""
    return AsyncOpenAI(base_url="http://gateway/v1", api_key="none", http_client=client, max_retries=0)


async def sent(openai: AsyncOpenAI, way: str, **fields: Any) -> Any:
    """The answer to a request with a few fields."""
    if way == "generate":
        return await openai.images.generate(**INPUTS | fields)
    return await openai.images.edit(**FILES | INPUTS | fields)


@pytest.mark.parametrize("way", PARAMS)
def test_every_field_of_the_sdk_is_decided_on(way) -> None:
    """A version of the SDK with another field, or another word in one, fails here until somebody has decided."""
    table = PARAMS[way][0]
    assert set(table) == set(hints(way))
    for name, hint in hints(way).items():
        undecided = literals(hint) - {*table[name].taken, *(v for v in table[name].refused if isinstance(v, str))}
        assert not undecided, f"{name}: {undecided}"


@pytest.mark.parametrize(("model", "way"), [(GenerationRequest, "generate"), (EditRequest, "edit")])
def test_the_bodies_have_every_field_of_the_sdk(model, way) -> None:
    """None is refused as unknown."""
    assert set(hints(way)) - {"image", "mask"} <= set(model.model_fields)


@pytest.mark.parametrize(("way", "name", "value"), TAKEN)
async def test_a_value_that_is_taken(openai, runner, way, name, value) -> None:
    """It is answered, and changes no input of the job where it has no effect."""
    answer = await sent(openai, way, **{name: value})
    if name == "stream" and value:
        assert [event.type async for event in answer][-1].endswith(".completed")
    else:
        ImagesResponse.model_validate(answer.model_dump(exclude={"lego"}))
    if not PARAMS[way][0][name].has_effect:
        await sent(openai, way)
        with_it, without = (dict(job.inputs) | {"edit": None} for job in runner.jobs)
        assert with_it == without


@pytest.mark.parametrize(("way", "name", "value"), NOT_TAKEN)
async def test_a_value_that_is_refused(openai, runner, way, name, value) -> None:
    """The refusal names the field, and no job is made."""
    with pytest.raises(BadRequestError) as refused:
        await sent(openai, way, **{name: value})
    assert str(refused.value.param).startswith(name)
    assert runner.jobs == []


@pytest.mark.parametrize(("way", "event"), [("generate", ImageGenCompletedEvent), ("edit", ImageEditCompletedEvent)])
async def test_answer_and_stream_have_the_same_usage(openai, runner, way, event) -> None:
    """Both are what the SDK's types say, with whom they are for: two images of 8 x 6 tokens, of 7 and 2 of text."""
    runner.stats |= {"cond": TaskStats(text_tokens=7), "negative": TaskStats(text_tokens=2)}
    fields = {"n": 2, "size": "128x96", "safety_identifier": "s"}
    answer = await sent(openai, way, **fields)
    given = 48 if way == "edit" else 0
    assert answer.usage is not None
    assert answer.usage.model_dump() == {
        "input_tokens": 9 + given,
        "input_tokens_details": {"image_tokens": given, "text_tokens": 9},
        "output_tokens": 96,
        "output_tokens_details": {"image_tokens": 96, "text_tokens": 0},
        "total_tokens": 105 + given,
    }
    assert answer.safety_identifier == "s"
    events = [each async for each in await sent(openai, way, stream=True, **fields)]
    assert len(events) == 2
    for each in events:
        completed = event.model_validate(each.model_dump())
        assert each.usage.model_dump() == answer.usage.model_dump()
        assert completed.safety_identifier == "s"


async def test_an_answer_names_the_user_where_it_has_no_safety_identifier(openai) -> None:
    """As OpenAI's does; without either it says nothing."""
    assert (await sent(openai, "generate", user="u", safety_identifier="")).safety_identifier == "u"
    assert (await sent(openai, "generate")).safety_identifier is None
