"""A1111's options: which model the caller's next images are made with, among what it may only read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lego_serve.compat.a1111.fields import MODEL_SETTING
from lego_serve.compat.names import find, unknown
from lego_serve.compat.task import Refused

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller has chosen: the model, by a name that the server shows; None is the server's default."""

    checkpoint: str | None = None


def shown(options: Options, default_model: str, sha256: str = "") -> Json:
    """Return the answer of ``GET options``."""
    return {
        MODEL_SETTING: options.checkpoint or default_model,
        "sd_checkpoint_hash": sha256,
        "samples_format": "png",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "enable_pnginfo": True,
        "return_grid": False,
        "grid_save": False,
    }


def changed(options: Options, posted: object, models: Collection[str]) -> Options:
    """Return the options after ``POST options``, of a part or of the whole.  Raises Refused for an unknown model.

    Clients send back the whole object that they were given, and settings of other servers; there is nothing behind
    these, and they change nothing.
    """
    if not isinstance(posted, Mapping):
        raise Refused("the body must be a JSON object of options")
    if MODEL_SETTING not in posted:
        return options
    name = posted[MODEL_SETTING]
    if name is None or name == "":
        return Options()
    found = find(name, models) if isinstance(name, str) else None
    if found is None:
        raise Refused(unknown("model", name if isinstance(name, str) else "", models), MODEL_SETTING)
    return Options(found)
