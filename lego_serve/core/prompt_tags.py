"""Finds the tags by which web interfaces name adapters within a prompt, such as ``<lora:stripes:0.8>``."""

import re

TAG = re.compile(r"<\s*(?:lora|lyco|hypernet)\s*:([^<>]*)>", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def adapter_tag(text: str | None) -> str | None:
    """Return the name in the first tag of a prompt, empty where it is no plain word; None without a tag."""
    match = TAG.search(text or "")
    if match is None:
        return None
    name = match[1].partition(":")[0].strip()
    return name if NAME.fullmatch(name) else ""
