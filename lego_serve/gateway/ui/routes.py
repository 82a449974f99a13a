"""Adds to the gateway what people see of it: pages, and what these ask for."""

from functools import cache

from fastapi import FastAPI

from lego_serve.gateway.context import Context
from lego_serve.gateway.peers import Peers
from lego_serve.gateway.routes.direct_route import add_routes
from lego_serve.gateway.ui import admin, pages
from lego_serve.gateway.ui.recorder import Recorder


@cache
def static_files() -> pages.StaticFiles:
    """Return the files of the pages, read once for all applications of a process."""
    return pages.StaticFiles()


def add_ui(app: FastAPI, context: Context, peers: Peers | None) -> Recorder:
    """Add the pages and their routes, and return what takes note of what they show."""
    recorder = Recorder(context)
    add_routes(app, admin.create_router(context, peers, recorder))
    add_routes(app, pages.create_router(context, static_files()))
    return recorder
