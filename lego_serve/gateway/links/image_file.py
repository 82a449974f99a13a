"""An image's file as an answer: the whole of it, or one part."""

import re

from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

ONE_PART = re.compile(rb"bytes=(?P<first>[0-9]{1,18})?-(?P<last>[0-9]{1,18})?")


class ImageFile(FileResponse):
    """A file of which a client may ask for one part.

    Any other ``Range`` is passed over, as RFC 9110 asks for those that nobody understands: parts that overlap or are
    very many are for nothing but making a server work.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = [(name, value) for name, value in scope["headers"] if name != b"range" or is_one_part(value)]
        await super().__call__({**scope, "headers": headers}, receive, send)


def is_one_part(value: bytes) -> bool:
    """Whether a ``Range`` names one part of a file, which may still lie behind its end."""
    found = ONE_PART.fullmatch(value.strip())
    if found is None or (found["first"] is None and found["last"] is None):
        return False
    return None in (found["first"], found["last"]) or int(found["first"]) <= int(found["last"])
