"""The command line: ``lego-serve serve | generate | models | jobs | cancel | pause | resume | replicas | ...``."""

import base64
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from lego_serve import config
from lego_serve.cli.adapters import app as adapters_app
from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, as_text, print_line, print_table, request, url_part
from lego_serve.cli.simulate import run as run_simulation
from lego_serve.cli.templates import app as templates_app
from lego_serve.cli.workflows import app as workflows_app
from lego_serve.errors import LegoError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Serve diffusion workflows, model by model.")
app.add_typer(workflows_app, name="workflows")
app.add_typer(adapters_app, name="adapters")
app.add_typer(templates_app, name="templates")
app.command(name="simulate")(run_simulation)
err = Console(stderr=True)
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
Loras = Annotated[list[str] | None, typer.Option(metavar="NAME[:SCALE]", help="An adapter; repeat it for several.")]
ControlNets = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:FILE[:WEIGHT]", help="A ControlNet and its image; repeat it for several."),
]


@app.command()
def serve(
    config_path: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="A YAML file; by default configs/tiny.yaml.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port, instead of the file's; 0 picks a free one.")] = None,
) -> None:
    """Start a server and keep it running until Ctrl-C."""
    from lego_serve.app import serve as run

    def report(line: str) -> None:
        print_line(line)
        sys.stdout.flush()

    raise typer.Exit(run(config_path or config.default_config(), port, report))


@app.command()
def generate(
    prompt: str,
    file: Annotated[Path, typer.Option("--out", help="Where to write the image.")] = Path("image.png"),
    model: str | None = None,
    size: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    seed: int | None = None,
    lora: Loras = None,
    controlnet: ControlNets = None,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Ask a running server for one image."""
    output_format = _output_format(file)
    if guidance is not None and not math.isfinite(guidance):
        raise LegoError("--guidance must be a finite number")
    body = {
        "prompt": prompt,
        "model": model,
        "size": size,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative,
        "seed": seed,
        "output_format": output_format,
        "lora": [_lora_entry(word) for word in lora] if lora else None,
        "controlnet": [_controlnet_entry(word) for word in controlnet] if controlnet else None,
    }
    body = {field: value for field, value in body.items() if value is not None}
    answer = request("POST", f"{url}/v1/images/generations", key, body)
    try:
        file.write_bytes(base64.b64decode(answer["data"][0]["b64_json"]))
    except OSError as error:
        raise LegoError(f"{file}: cannot be written: {error.strerror}") from None
    _print_summary(file, answer)


@app.command()
def models(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the models of a running server."""
    table = Table("model", "inputs", "ControlNets")
    for card in request("GET", f"{url}/v1/models", key)["data"]:
        table.add_row(card["id"], ", ".join(card["lego"]["inputs"]), ", ".join(card["lego"]["controlnets"]))
    print_table(table)


@app.command()
def jobs(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the jobs in flight of a running server, oldest first."""
    table = Table(Column("job", overflow="fold"), "workflow", "tenant", "age", "nodes")
    for card in request("GET", f"{url}/v1/admin/jobs", key)["data"]:
        states = [f"{name} {state}" for name, state in card["nodes"].items()]
        if card["paused"]:
            states.append("paused")
        table.add_row(card["id"], card["workflow"], card["tenant"], f"{card['age_s']:.1f} s", ", ".join(states))
    print_table(table)


@app.command()
def cancel(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Cancel a job in flight, of any tenant."""
    request("DELETE", f"{url}/v1/admin/jobs/{url_part(job)}", key)
    print_line(f"{job}: cancelled")


@app.command()
def pause(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Pause a job before its next step; its deadline keeps running."""
    request("POST", f"{url}/v1/admin/jobs/{url_part(job)}/pause", key)
    print_line(f"{job}: paused")


@app.command()
def resume(job: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Resume a paused job at its next step."""
    request("POST", f"{url}/v1/admin/jobs/{url_part(job)}/resume", key)
    print_line(f"{job}: resumed")


@app.command()
def replicas(url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the backbone replicas of a running server."""
    table = Table("replica", "node")
    for card in request("GET", f"{url}/v1/admin/replicas", key)["data"]:
        table.add_row(card["id"], card["node"])
    print_table(table)


@app.command()
def drain(replica: str, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Move a backbone replica's lanes to others, from fresh checkpoints, and replace it."""
    answer = request("POST", f"{url}/v1/admin/replicas/{url_part(replica)}/drain", key)
    print_line(f"{replica}: drained, {answer['calls_moved']} calls moved")


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


def main() -> None:
    """Run the ``lego-serve`` script: a LegoError is one line and exit status 1."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        app()
    except LegoError as error:
        err.print(f"[red]error:[/red] {escape(error.message)}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
