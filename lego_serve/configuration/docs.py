"""Writes docs/configuration.md from the schema: ``python -m lego_serve.configuration.docs > docs/configuration.md``."""

import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lego_serve.configuration.models import MIB
from lego_serve.configuration.schema import Settings

HEAD = """# Configuration

<!-- Generated: change lego_serve/configuration/schema.py or configuration/models.py, then run
`python -m lego_serve.configuration.docs > docs/configuration.md`. -->

The server reads one YAML file, once, when it starts. A key that does not exist is refused with the nearest one that
does, and a key given twice is refused too; YAML's aliases and tags are not taken. Bounds include their ends unless the
table says `above`. The shipped files are in [configs](../configs); how to run a server is in
[operations](operations.md).
"""
Section = tuple[str, type[BaseModel]]


def page() -> str:
    """The whole page: one table for each section of the file, outer sections first."""
    sections = _sections()
    anchors = {model: title for title, model in sections}
    return "\n".join([HEAD, *(_table(title, model, anchors) for title, model in sections)])


def _sections() -> list[Section]:
    """Every section by its place in the file; one that occurs at several places is listed where it occurs first."""
    sections: list[Section] = []

    def visit(place: str, model: type[BaseModel]) -> None:
        if model in [known for _, known in sections]:
            return
        sections.append((f"`{place}`" if place else "Top level", model))
        for name, field in model.model_fields.items():
            for key, section in _children(field.annotation):
                visit(".".join(part for part in (place, name, key) if part), section)

    visit("", Settings)
    return sections


def _children(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections below a key, each with the word that stands for an entry of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    # Ids of ControlNets and tenants have a pattern; models may be called anything.
    entry = ("NAME" if get_args(annotation)[0] is str else "ID") if get_origin(annotation) is dict else ""
    for part in get_args(annotation):
        for key, section in _children(part):
            yield entry or key, section


def _table(title: str, model: type[BaseModel], anchors: dict[type[BaseModel], str]) -> str:
    lines = [f"## {title}", "", model.__doc__ or "", "", "| key | meaning | values | default |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        sections = [section for _, section in _children(field.annotation)]
        meaning = (
            f"{field.description} See [{anchors[sections[0]]}](#{_anchor(anchors[sections[0]])})."
            if sections
            else field.description
        )
        lines.append(f"| `{name}` | {meaning} | {_values(field)} | {_default(name, field)} |")
    return "\n".join([*lines, ""])


def _anchor(title: str) -> str:
    """The name that Markdown viewers give a heading."""
    return "".join(letter for letter in title.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")


def _values(field: FieldInfo) -> str:
    """What a key may be set to."""
    if field.examples:
        return ", ".join(f"`{value}`" for value in field.examples)
    words = [f"`{word}`" for word in _words(field.annotation)]
    return ", ".join(text for text in (_kind(field.annotation), _bounds(field), *words) if text)


def _kind(annotation: Any) -> str:
    """The kind of value, where neither bounds nor words say it."""
    kind = get_origin(annotation) or annotation
    if kind in (str, tuple, dict):
        return {str: "text", tuple: "a list", dict: "a mapping"}[kind]
    parts = () if kind is Literal else get_args(annotation)
    return next((name for name in map(_kind, parts) if name), "")


def _words(annotation: Any) -> list[str]:
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(word) for word in get_args(annotation)]
    return [word for part in get_args(annotation) for word in _words(part)]


def _bounds(field: FieldInfo) -> str:
    """The range of a number, or the length of a list or mapping that must not be empty."""
    limits = {
        side: getattr(rule, side)
        for rule in (*field.metadata, *_rules(field.annotation))
        for side in ("ge", "gt", "le", "min_length")
        if getattr(rule, side, None) is not None
    }
    if "min_length" in limits:
        return "not empty" if field.annotation is str else "one or more"
    if "gt" in limits:
        return f"above {limits['gt']}" + (f", to {limits['le']}" if "le" in limits else "")
    if "ge" not in limits:
        return ""
    return f"{limits['ge']} to {limits['le']}" if "le" in limits else f"{limits['ge']} or more"


def _rules(annotation: Any) -> Iterator[object]:
    """The constraints inside a union."""
    for part in get_args(annotation):
        for info in getattr(part, "__metadata__", ()):
            yield from getattr(info, "metadata", [info])


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return "its keys'"
    if field.default in (None, (), {}):
        return "none"
    text = f"`{str(field.default).lower()}`"
    is_large = name.endswith("bytes") and isinstance(field.default, int) and field.default >= MIB
    return f"{text} ({field.default // MIB} MiB)" if is_large else text


if __name__ == "__main__":
    sys.stdout.write(page())
