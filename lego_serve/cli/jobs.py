"""``lego-serve jobs``: the jobs in flight, for operators; ``jobs list | show | cancel``: your durable jobs."""

from datetime import datetime
from typing import Annotated

import typer
from rich.table import Column, Table

from lego_serve.cli.client import DEFAULT_URL, KeyOption, Url, as_text, connected, print_line, print_table, request

app = typer.Typer(help="List the jobs in flight; list, show and cancel your durable jobs.")
JobId = Annotated[str, typer.Argument(metavar="ID", help="As `list` prints it.")]


@app.callback(invoke_without_command=True)
def in_flight(context: typer.Context, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """List the jobs in flight of a running server, oldest first; or do what a command says with your durable jobs."""
    if context.invoked_subcommand is not None:
        return
    table = Table(Column("job", overflow="fold"), "workflow", "tenant", "age", "nodes")
    for card in request("GET", f"{url}/v1/admin/jobs", key)["data"]:
        states = [f"{name} {state}" for name, state in card["nodes"].items()]
        if card["paused"]:
            states.append("paused")
        table.add_row(card["id"], card["workflow"], card["tenant"], f"{card['age_s']:.1f} s", ", ".join(states))
    print_table(table)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Those accepted before this one.")] = None,
    status: Annotated[str | None, typer.Option(help="Those of one state, such as queued or completed.")] = None,
    url: Url = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """List your durable jobs, newest first."""
    table = Table(Column("job", overflow="fold"), "model", "status", "progress", "accepted")
    with connected(url, key) as client:
        for job in client.jobs(limit, after and as_text(after), status and as_text(status)):
            table.add_row(job.id, job.model, job.status, f"{job.progress} %", _time(job.answer["created_at"]))
    print_table(table)


@app.command("show")
def show_job(job: JobId, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Show one of your durable jobs, with the links of its images."""
    with connected(url, key) as client:
        card = client.job(as_text(job)).answer
    images = (card.pop("result") or {}).get("data", ())
    error = card.pop("error")
    for name in ("id", "status", "model", "endpoint", "progress", "position", "priority", "attempt"):
        print_line(f"{name}: {'-' if card[name] is None else card[name]}")
    for name in ("created_at", "started_at", "completed_at", "deadline_at", "expires_at"):
        print_line(f"{name.removesuffix('_at')}: {_time(card[name])}")
    for name, value in card["metadata"].items():
        print_line(f"metadata {name}: {value}")
    if error is not None:
        print_line(f"error: {error['code']}: {error['message']}")
    for image in images:
        print_line(f"image: {image['url']}")


@app.command("cancel")
def cancel_job(job: JobId, url: Url = DEFAULT_URL, key: KeyOption = "") -> None:
    """Cancel one of your durable jobs; one that has ended stays as it is."""
    with connected(url, key) as client:
        print_line(f"{job}: {client.cancel(as_text(job)).status}")


def _time(seconds: int | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
