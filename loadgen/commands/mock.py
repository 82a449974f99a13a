"""``python -m loadgen mock-server``."""

from typing import Annotated

import typer
import uvicorn

from loadgen.mock_server import FIXED, SPREADS, MockServer, MockSettings, ServiceTimes


def mock_server(
    port: Annotated[int, typer.Option(help="Port to listen on, of the loopback.")] = 8099,
    service: Annotated[float, typer.Option(min=0.0, help="Seconds of an image.")] = 0.1,
    step: Annotated[float, typer.Option(min=0.0, help="Seconds that each step adds.")] = 0.0,
    spread: Annotated[str, typer.Option(help=f"One of: {', '.join(SPREADS)}.")] = FIXED,
    workers: Annotated[int, typer.Option(min=1, help="Requests served at once.")] = 1,
    most_waiting: Annotated[int | None, typer.Option(min=0, help="Answer 429 beyond so many; none: never.")] = None,
    failures: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the requests that end in 500.")] = 0.0,
    model: Annotated[list[str] | None, typer.Option("--model", help="Name of a model; several.")] = None,
) -> None:
    """Serve the Images API with known service times and no model, to try the load generator on."""
    if spread not in SPREADS:
        raise typer.BadParameter(f"no spread {spread!r}; there is {', '.join(SPREADS)}", param_hint="--spread")
    times = ServiceTimes(service, step, spread)
    settings = MockSettings(times, workers, most_waiting, failures, tuple(model or ("mock",)))
    uvicorn.run(MockServer(settings).app, host="127.0.0.1", port=port, log_level="warning")
