"""A1111's lists and options."""

import pytest
from sd_backend_client.api.webui.controlnet_webui_constants import ControlNetModelResponse, ControlNetModuleResponse
from sd_backend_client.api.webui.controlnet_webui_utils import get_all_preprocessors
from sd_backend_client.api.webui.response_formats import LoraInfo, ModelInfo, SamplerInfo, UpscalerInfo
from sd_backend_client.api.webui.script_info_types import ScriptResponseData

from lego_serve.compat.a1111 import lists
from lego_serve.compat.a1111.options import Options, changed, shown
from lego_serve.compat.samplers import exact_sampler, sampler_of, scheduler_of
from lego_serve.compat.task import Refused

MODELS = ["lego-tiny", "other"]


def test_models_and_adapters_have_a1111s_keys() -> None:
    """A hash that is not known is null; a file's place on this machine is not told."""
    known, unknown = (
        ModelInfo.model_validate(item)
        for item in lists.sd_models([lists.ModelItem("lego-tiny", "ab" * 32), lists.ModelItem("other")])
    )
    assert (known.title, known.hash, known.filename) == ("lego-tiny", "ababababab", "lego-tiny")
    assert (unknown.sha256, unknown.config) == (None, None)
    first, second = (
        LoraInfo.model_validate(item) for item in lists.loras([lists.LoraItem("a", "A"), lists.LoraItem("b")])
    )
    assert [(lora.name, lora.alias) for lora in (first, second)] == [("a", "A"), ("b", "b")]


def test_samplers_and_schedulers_are_those_that_requests_may_name() -> None:
    """Those that are here come first, for clients pick the first."""
    names = [SamplerInfo.model_validate(item).name for item in lists.samplers()]
    assert all(sampler_of(name) for name in names)
    is_here = [exact_sampler(name) is not None for name in names]
    assert is_here == sorted(is_here, reverse=True)
    assert all(scheduler_of(str(item["name"])) and scheduler_of(str(item["label"])) for item in lists.schedulers())


def test_there_is_none_of_what_this_server_cannot_do() -> None:
    """And clients read that too."""
    (upscaler,) = (UpscalerInfo.model_validate(item) for item in lists.upscalers())
    assert upscaler.name == "None"
    assert ScriptResponseData.model_validate(lists.NO_SCRIPTS).txt2img == []
    assert lists.latent_upscale_modes() == []
    assert lists.NO_EMBEDDINGS == {"loaded": {}, "skipped": {}}
    assert lists.cmd_flags()["api"] is True
    assert lists.memory(1, 2, 3)["ram"] == {"free": 1, "used": 2, "total": 3}


def test_controlnets_are_listed_with_no_preprocessor() -> None:
    """A client makes its own list of it."""
    assert ControlNetModelResponse.model_validate(lists.controlnet_models(["outline"])).model_list == ["outline"]
    modules = ControlNetModuleResponse.model_validate(lists.controlnet_modules())
    assert [made.name for made in get_all_preprocessors(modules.module_list, modules.module_details)] == ["none"]


def test_options_sent_back_whole_change_nothing_but_the_model() -> None:
    """Open WebUI does so; an empty name is the server's default again."""
    whole = shown(Options(), "lego-tiny", "ab")
    assert (whole["sd_model_checkpoint"], whole["sd_checkpoint_hash"]) == ("lego-tiny", "ab")
    assert changed(Options(), whole | {"sd_model_checkpoint": "Other.safetensors [abc]"}, MODELS) == Options("other")
    assert changed(Options("other"), {"live_previews_enable": True}, MODELS) == Options("other")
    assert changed(Options("other"), {"sd_model_checkpoint": ""}, MODELS) == Options()
    assert shown(Options("other"), "lego-tiny")["sd_model_checkpoint"] == "other"


@pytest.mark.parametrize(
    ("posted", "said"),
    [
        ([], "JSON object"),
        ({"sd_model_checkpoint": "othr"}, "did you mean other?"),
        ({"sd_model_checkpoint": 5}, "model"),
    ],
)
def test_an_unknown_model_is_no_option(posted: object, said: str) -> None:
    """The nearest there is is named."""
    with pytest.raises(Refused) as caught:
        changed(Options(), posted, MODELS)
    assert said in caught.value.message
