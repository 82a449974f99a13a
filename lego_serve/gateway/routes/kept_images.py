"""The route of images that an answer gave links to."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from lego_serve.gateway.jobs.job_object import MEDIA_TYPES
from lego_serve.gateway.links.image_file import ImageContent, ImageFile
from lego_serve.gateway.links.kept_images import ROUTE, KeptImages
from lego_serve.gateway.openapi import answer, errors

HEADERS = {"cache-control": "private, max-age=3600, immutable"}


def create_router(kept: KeptImages) -> APIRouter:
    """Build the route."""
    router = APIRouter(prefix=ROUTE, tags=["images"])
    image = answer(200, "The file of an image.", "image/png") | answer(206, "A part of it.", "image/png") | errors(404)
    image |= {416: {"description": "It has no such part."}}

    @router.get("/{name}", responses=image, response_class=Response)
    async def show(
        name: str,
        expires: Annotated[str | None, Query(max_length=20)] = None,
        signature: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        """An image by the link that an answer holds, as long as it is kept."""
        found = await kept.open_link(name, expires, signature)
        media_type = MEDIA_TYPES[name.rpartition(".")[2]]
        if isinstance(found, bytes):
            return ImageContent(found, HEADERS | {"etag": f'"{name}"'}, media_type)
        return ImageFile(found, headers=HEADERS, media_type=media_type)

    return router
