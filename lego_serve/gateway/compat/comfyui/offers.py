"""What a server offers to ComfyUI's clients: nodes with their choices, models, and what the server is."""

import asyncio
import os
import platform
from collections.abc import Mapping, Sequence

from fastapi import Request
from fastapi.responses import JSONResponse

from lego_serve.compat.comfyui.answers import FOLDERS, models, system_stats
from lego_serve.compat.comfyui.nodes import CHECKPOINTS, CONTROLNETS, IMAGES, LORAS
from lego_serve.compat.comfyui.object_info import object_info
from lego_serve.gateway.compat import catalogue
from lego_serve.gateway.compat.callers import foreign_caller
from lego_serve.gateway.compat.comfyui.uploads import Uploads
from lego_serve.gateway.context import Context

NOTHING: tuple[str, ...] = ()


async def lists_for(
    context: Context, uploads: Uploads | None, tenant: str, *, has_loras: bool = True, has_images: bool = True
) -> dict[str, Sequence[str]]:
    """Return the names that nodes may choose from; adapters and uploads are looked for only where they matter."""
    lists: dict[str, Sequence[str]] = {
        CHECKPOINTS: catalogue.shown_models(context),
        LORAS: await catalogue.adapter_names(context) if has_loras else NOTHING,
        CONTROLNETS: catalogue.shown_controlnets(context),
        IMAGES: NOTHING,
    }
    if has_images and uploads is not None:
        lists[IMAGES] = await asyncio.to_thread(uploads.names, tenant)
    return lists


def needs(graph: Mapping[str, object]) -> dict[str, bool]:
    """Return which of the lists a graph's nodes choose from."""
    classes = [str(entry.get("class_type")) for entry in graph.values() if isinstance(entry, Mapping)]
    return {
        "has_loras": any(name.startswith("Lora") for name in classes),
        "has_images": any(name.startswith("LoadImage") for name in classes),
    }


class OfferHandlers:
    """Answers requests about the server."""

    def __init__(self, context: Context, uploads: Uploads | None) -> None:
        self._context, self._uploads = context, uploads

    async def nodes(self, request: Request) -> JSONResponse:
        """The classes of nodes that are translated, or one of them."""
        caller = foreign_caller(self._context, request)
        name = request.path_params.get("name")
        return JSONResponse(object_info(await lists_for(self._context, self._uploads, caller.tenant), name))

    async def folders(self, request: Request) -> JSONResponse:
        """The folders of models."""
        foreign_caller(self._context, request)
        return JSONResponse(list(FOLDERS))

    async def models(self, request: Request) -> JSONResponse:
        """The models of a folder."""
        caller = foreign_caller(self._context, request)
        lists = await lists_for(self._context, None, caller.tenant)
        names = {
            "checkpoints": lists[CHECKPOINTS],
            "diffusion_models": lists[CHECKPOINTS],
            "loras": lists[LORAS],
            "controlnet": lists[CONTROLNETS],
        }
        return JSONResponse(models(request.path_params["folder"], names))

    async def none(self, request: Request) -> JSONResponse:
        """An empty list, of what there is none of."""
        foreign_caller(self._context, request)
        return JSONResponse([])

    async def done(self, request: Request) -> JSONResponse:
        """Null: there is nothing to be done."""
        foreign_caller(self._context, request)
        return JSONResponse(None)

    async def features(self, request: Request) -> JSONResponse:
        """What the server can do beyond the first version of the protocol."""
        foreign_caller(self._context, request)
        size = self._context.settings.max_body_bytes
        return JSONResponse({"supports_preview_metadata": False, "max_upload_size": size})

    async def stats(self, request: Request) -> JSONResponse:
        """What the server is."""
        foreign_caller(self._context, request)
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
        return JSONResponse(system_stats(platform.python_version(), "", total, free, ["lego-serve"]))
