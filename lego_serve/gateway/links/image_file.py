"""An image as an answer, from its file or its content: the whole of it, or one part."""

import re
from collections.abc import Mapping

from fastapi.responses import FileResponse, Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

ONE_PART = re.compile(r"bytes=(?P<first>[0-9]{1,18})?-(?P<last>[0-9]{1,18})?")


class ImageFile(FileResponse):
    """A file of which a client may ask for one part.

    Any other ``Range`` is passed over, as RFC 9110 asks for those that nobody understands: parts that overlap or are
    very many are for nothing but making a server work.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = [
            (name, value)
            for name, value in scope["headers"]
            if name != b"range" or requested_part(value.decode("latin-1")) is not None
        ]
        await super().__call__({**scope, "headers": headers}, receive, send)


class ImageContent(Response):
    """The same of an image that is no file on this machine; its headers have an ``etag``."""

    def __init__(self, content: bytes, headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(content, headers={"accept-ranges": "bytes", **headers}, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        asked = Headers(scope=scope)
        part = requested_part(asked.get("range", ""))
        if part is None or asked.get("if-range", self.headers["etag"]) != self.headers["etag"]:
            await super().__call__(scope, receive, send)
            return
        whole = len(self.body)
        first, last = part
        start = max(0, whole - (last or 0)) if first is None else first
        end = whole if first is None or last is None else min(last + 1, whole)
        headers = {name: value for name, value in self.headers.items() if name != "content-length"}
        if start >= end:
            answer = Response(status_code=416, headers={"content-range": f"bytes */{whole}"})
        else:
            answer = Response(
                self.body[start:end], 206, headers | {"content-range": f"bytes {start}-{end - 1}/{whole}"}
            )
        await answer(scope, receive, send)


def requested_part(value: str) -> tuple[int | None, int | None] | None:
    """Return the first and the last byte of a ``Range`` that names one part, which may still lie behind the end.

    Without a first byte the last one is a number of bytes from the end.  None for any other range.
    """
    found = ONE_PART.fullmatch(value.strip())
    if found is None or (found["first"] is None and found["last"] is None):
        return None
    first, last = (None if text is None else int(text) for text in (found["first"], found["last"]))
    return None if first is not None and last is not None and first > last else (first, last)
