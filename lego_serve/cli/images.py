"""``lego-serve generate | edit``: asks a running server for one image."""

import base64
import math
import os
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, as_text, connected, print_line
from lego_serve.client.answers import Images
from lego_serve.client.clients import ImageFields
from lego_serve.errors import LegoError

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
Out = Annotated[Path, typer.Option("--out", help="Where to write the image.")]
Loras = Annotated[list[str] | None, typer.Option(metavar="NAME[:SCALE]", help="An adapter; repeat it for several.")]
Tier = Annotated[str | None, typer.Option(help="How much of the work is done: exact, high, balanced, fast or turbo.")]
ControlNets = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:FILE[:WEIGHT]", help="A ControlNet and its image; repeat it for several."),
]


def generate(
    prompt: str,
    file: Out = Path("image.png"),
    model: str | None = None,
    size: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    seed: int | None = None,
    tier: Tier = None,
    lora: Loras = None,
    controlnet: ControlNets = None,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Ask a running server for one image."""
    fields = _fields(
        output_format=_output_format(file),
        model=model,
        size=size,
        num_inference_steps=steps,
        guidance_scale=_finite("--guidance", guidance),
        negative_prompt=negative,
        seed=seed,
        tier=tier,
        lora=[_lora_entry(word) for word in lora or ()],
        controlnet=[_controlnet_entry(word) for word in controlnet or ()],
    )
    with connected(url, key) as client:
        _write(file, client.generate(as_text(prompt), **fields))


def edit(
    prompt: str,
    image: Annotated[Path | None, typer.Option(help="The image to change: a PNG, JPEG or WebP file.")] = None,
    mask: Annotated[Path | None, typer.Option(help="A PNG file, transparent where the image may change.")] = None,
    template: Annotated[str | None, typer.Option(metavar="ID", help="A registered image, in place of a file.")] = None,
    file: Out = Path("image.png"),
    model: str | None = None,
    size: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    seed: int | None = None,
    tier: Tier = None,
    strength: Annotated[float | None, typer.Option(help="How much of an image without a mask is made anew.")] = None,
    caption: Annotated[str | None, typer.Option(metavar="TEXT", help="What the image shows before the edit.")] = None,
    lora: Loras = None,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Ask a running server for one image, made from another."""
    if (image is None) == (template is None):
        raise LegoError("give --image FILE or --template ID, one of them")
    fields = _fields(
        output_format=_output_format(file),
        model=model,
        size=size,
        num_inference_steps=steps,
        guidance_scale=_finite("--guidance", guidance),
        negative_prompt=negative,
        seed=seed,
        tier=tier,
        strength=_finite("--strength", strength),
        caption=caption,
        template=template,
        lora=[_lora_entry(word) for word in lora or ()],
    )
    files = [None if path is None else _content(path) for path in (image, mask)]
    with connected(url, key) as client:
        _write(file, client.edit(as_text(prompt), *files, **fields))


def _fields(**fields: Any) -> ImageFields:
    """Return the fields of a request that were given.  Raises LegoError for a word that is no text."""
    given = {name: value for name, value in fields.items() if value is not None and value != []}
    for value in given.values():
        as_text(str(value))
    return cast(ImageFields, given)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LegoError(f"{path}: cannot be read: {error.strerror}") from None


def _write(file: Path, made: Images) -> None:
    """Write the image to a file and print how it was made."""
    try:
        file.write_bytes(made.files[0])
    except OSError as error:
        raise LegoError(f"{file}: cannot be written: {error.strerror}") from None
    _print_summary(file, made.answer)


def _output_format(file: Path) -> str:
    """Return the format of an image by its file name.  Raises LegoError for an unknown one or an unwritable file."""
    output_format = FORMATS.get(file.suffix.lower())
    if output_format is None:
        raise LegoError(f"{file}: the name must end in {', '.join(FORMATS)}")
    if not file.parent.is_dir():
        raise LegoError(f"{file}: there is no folder {file.parent}")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise LegoError(f"{file}: cannot be written")
    return output_format


def _lora_entry(word: str) -> dict[str, Any]:
    """Return the entry of a request's `lora` for ``NAME[:SCALE]``.  Raises LegoError."""
    name, colon, number = as_text(word).partition(":")
    if not colon:
        return {"name": name}
    scale = _finite_number(number)
    if scale is None:
        raise LegoError(f"--lora {word}: after the colon comes a scale, which is a number")
    return {"name": name, "scale": scale}


def _controlnet_entry(word: str) -> dict[str, Any]:
    """Return the entry of a request's `controlnet` for ``NAME:FILE[:WEIGHT]``, the file read.  Raises LegoError."""
    name, _, rest = as_text(word).partition(":")
    if not rest:
        raise LegoError(f"--controlnet {word}: give NAME:FILE or NAME:FILE:WEIGHT")
    file, weight = Path(rest), None
    before, colon, tail = rest.rpartition(":")
    if colon and not file.exists():  # a file may have a colon in its name
        file, weight = Path(before), _finite_number(tail)
        if weight is None:
            raise LegoError(f"--controlnet {word}: there is no file {rest}, and {tail} is no weight, which is a number")
    try:
        image = base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise LegoError(f"--controlnet {word}: {file} cannot be read: {error.strerror}") from None
    return {"name": name, "image": image} | ({} if weight is None else {"weight": weight})


def _finite_number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _print_summary(file: Path, answer: dict[str, Any]) -> None:
    metadata = answer["lego"]
    nodes = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in metadata["nodes"].items())
    print_line(f"{file}: {answer['size']}, seed {metadata['seed']} ({nodes})")
    for addon in (*metadata.get("adapters", ()), *metadata.get("controlnets", ())):
        if addon.get("steps_active") == 0:
            print_line(f"{addon['name']} took part in none of the steps")


def _finite(option: str, number: float | None) -> float | None:
    if number is not None and not math.isfinite(number):
        raise LegoError(f"{option} must be a finite number")
    return number
