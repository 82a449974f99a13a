"""Adapters inside prompts: ``<lora:NAME:WEIGHT>``.

Emphasis such as ``(red:1.2)`` stays as it is written: text encoders here know no weights of words.
"""

import math
import re

from lego_serve.compat.task import Lora, Refused, summed

NETWORK = re.compile(r"<(?P<kind>\w+):(?P<arguments>[^<>]+)>")
ADAPTERS = ("lora", "lyco")  # the second is of old, for LyCORIS
OTHERS = ("hypernet",)
MAX_TAGS = 100


def take_loras(prompt: str, *, are_used: bool = True) -> tuple[str, tuple[Lora, ...], tuple[tuple[str, str], ...]]:
    """Return a prompt without its tags, their adapters, and what is not done as asked.

    Tags may stand anywhere, between brackets of emphasis too; what looks like a tag of another kind stays text, and
    so does a tag that is not closed.  Without ``are_used`` the tags go and name nothing.  Raises Refused.
    """
    loras: list[Lora] = []
    replaced: list[tuple[str, str]] = []

    def take(match: re.Match[str]) -> str:
        if match["kind"] in OTHERS and are_used:
            raise Refused(f"the prompt has {match[0][:80]}, but this server has no hypernetworks", "prompt")
        if match["kind"] not in ADAPTERS:
            return "" if match["kind"] in OTHERS else match[0]
        if are_used:
            lora, for_text = _lora(match[0], match["arguments"])
            loras.append(lora)
            if for_text != lora.scale:
                replaced.append((f"{match[0][:80]} on text encoders", f"{lora.scale:g}"))
        return ""

    text = NETWORK.sub(take, prompt)
    if len(loras) > MAX_TAGS:
        raise Refused(f"the prompt names {len(loras)} adapters; at most {MAX_TAGS} tags are read", "prompt")
    return text, summed(tuple(loras)), tuple(replaced)


def _lora(tag: str, arguments: str) -> tuple[Lora, float]:
    """Return a tag's adapter, and the scale that it asks for on text encoders.

    The first number is for both text encoders (`te`) and denoiser (`unet`), a second one for the latter.
    """
    name, *rest = arguments.split(":")
    by_name = dict(part.split("=", 1) for part in rest if "=" in part)
    by_place = [part for part in rest if "=" not in part]
    unknown = sorted(by_name.keys() - {"te", "unet", "dyn"})
    if not name.strip() or len(by_place) > 3 or unknown:
        raise Refused(f"the prompt's {tag[:80]} is no <lora:NAME:WEIGHT>", "prompt")
    for_text = _number(tag, by_name.get("te", by_place[0] if by_place else "1"))
    scale = _number(tag, by_name["unet"]) if "unet" in by_name else for_text
    if len(by_place) > 1 and "unet" not in by_name:
        scale = _number(tag, by_place[1])
    return Lora(name.strip(), scale), for_text


def _number(tag: str, text: str) -> float:
    try:
        number = float(text[:64])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Refused(f"the weight {text[:40]!r} of the prompt's {tag[:80]} is no number", "prompt")
    return number
