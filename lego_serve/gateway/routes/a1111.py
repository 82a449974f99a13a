"""AUTOMATIC1111's native API: what its clients ask of a web UI, answered by the models here.

A1111 has one user; here progress, interrupt and options are those of the caller's tenant.
"""

from fastapi import APIRouter

from lego_serve.gateway.compat.a1111.errors import render
from lego_serve.gateway.compat.a1111.images import ImageHandlers
from lego_serve.gateway.compat.a1111.lists import LISTS, handler, nothing
from lego_serve.gateway.compat.a1111.options import TenantOptions
from lego_serve.gateway.compat.a1111.runs import Runs
from lego_serve.gateway.compat.a1111.state import StateHandlers
from lego_serve.gateway.compat.route_class import route_class
from lego_serve.gateway.context import Context
from lego_serve.gateway.peers import Peers

PREFIX = "/sdapi/v1"
NOTHING_TO_DO = (  # answered with null
    "refresh-checkpoints",
    "refresh-loras",
    "refresh-vae",
    "refresh-embeddings",
    "reload-checkpoint",
    "unload-checkpoint",
)


def create_router(context: Context, peers: Peers | None) -> APIRouter:
    """Build the routes; those of progress, interrupt and options are of all gateways together."""
    router = APIRouter(route_class=route_class(render), include_in_schema=False)
    runs, options = Runs(), TenantOptions(None if context.jobs is None else context.jobs.store)
    images, state = ImageHandlers(context, runs, options), StateHandlers(context, peers, runs, options)
    answers = {
        "GET": {
            f"{PREFIX}/progress": state.progress,
            f"{PREFIX}/options": state.show_options,
            **{path: handler(context, make) for path, make in LISTS.items()},
        },
        "POST": {
            f"{PREFIX}/txt2img": images.text_to_image,
            f"{PREFIX}/img2img": images.image_to_image,
            f"{PREFIX}/png-info": images.png_info,
            f"{PREFIX}/interrupt": state.interrupt,
            f"{PREFIX}/skip": state.skip,
            f"{PREFIX}/options": state.set_options,
            **{f"{PREFIX}/{name}": handler(context, nothing) for name in NOTHING_TO_DO},
        },
    }
    for method, by_path in answers.items():
        for path, answer in by_path.items():
            router.add_api_route(path, answer, methods=[method], response_model=None)
    return router
