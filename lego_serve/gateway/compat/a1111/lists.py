"""Handlers of A1111's lists: what a picker offers."""

import os
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from fastapi import Request
from fastapi.responses import JSONResponse

from lego_serve.compat.a1111 import lists
from lego_serve.gateway.compat import catalogue
from lego_serve.gateway.compat.callers import foreign_caller
from lego_serve.gateway.context import Context

CONTROLNET_VERSION = 3
Maker: TypeAlias = Callable[[Context], Awaitable[object]]
Handler: TypeAlias = Callable[[Request], Awaitable[JSONResponse]]


def handler(context: Context, make: Maker) -> Handler:
    """Return the handler that answers a caller with a list."""

    async def answer(request: Request) -> JSONResponse:
        foreign_caller(context, request)
        return JSONResponse(await make(context))

    return answer


async def nothing(context: Context) -> None:
    """Answer null: there is nothing to be done."""


def fixed(value: object) -> Maker:
    """Return the maker of a list that is always the same."""

    async def make(context: Context) -> object:
        return value

    return make


async def _models(context: Context) -> object:
    return lists.sd_models([lists.ModelItem(name) for name in catalogue.shown_models(context)])


async def _loras(context: Context) -> object:
    return lists.loras([lists.LoraItem(name) for name in await catalogue.adapter_names(context)])


async def _controlnets(context: Context) -> object:
    return lists.controlnet_models(catalogue.shown_controlnets(context))


async def _memory(context: Context) -> object:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    return lists.memory(free, total - free, total)


LISTS: dict[str, Maker] = {  # by path
    "/sdapi/v1/sd-models": _models,
    "/sdapi/v1/loras": _loras,
    "/sdapi/v1/memory": _memory,
    "/sdapi/v1/samplers": fixed(lists.samplers()),
    "/sdapi/v1/schedulers": fixed(lists.schedulers()),
    "/sdapi/v1/upscalers": fixed(lists.upscalers()),
    "/sdapi/v1/latent-upscale-modes": fixed(lists.latent_upscale_modes()),
    "/sdapi/v1/scripts": fixed(lists.NO_SCRIPTS),
    "/sdapi/v1/embeddings": fixed(lists.NO_EMBEDDINGS),
    "/sdapi/v1/cmd-flags": fixed(lists.cmd_flags()),
    **{f"/sdapi/v1/{name}": fixed([]) for name in lists.EMPTY},
    "/controlnet/version": fixed({"version": CONTROLNET_VERSION}),
    "/controlnet/model_list": _controlnets,
    "/controlnet/module_list": fixed(lists.controlnet_modules()),
}
