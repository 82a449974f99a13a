"""The pages that people see: the playground at ``/``, the dashboard below ``/dashboard``, and the files of both.

Files are read and compressed once.  Their addresses hold a hash of all of them, so that browsers keep them for good.
Pages load nothing from elsewhere, and run no script but these: the vendored ones as they are, and our own modules
joined into one for each page, without their comments, which are a fourth of what they weigh.
"""

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from lego_serve import __version__
from lego_serve.errors import NotFound
from lego_serve.gateway.context import Context
from lego_serve.gateway.ui.bundle import bundle

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
}
VENDORED = ("preact.mjs", "hooks.mjs", "htm.mjs", "signals-core.mjs", "signals.mjs")
# Bare names in the modules, by the vendored file that each stands for.
IMPORTS = {
    "preact": "preact.mjs",
    "preact/hooks": "hooks.mjs",
    "htm": "htm.mjs",
    "@preact/signals-core": "signals-core.mjs",
    "@preact/signals": "signals.mjs",
}
PAGES = ("play", "dash")
STYLES = {"play": ("css/base.css", "css/play.css"), "dash": ("vendor/uPlot.min.css", "css/base.css", "css/dash.css")}
OWN = ("app/", "dash/", "play/")
TYPE_COMMENT = re.compile(r"/\*\* @\w+ [^*]*\*/ ?")
ONE_YEAR = "public, max-age=31536000, immutable"
REVALIDATED = "no-cache"
POLICY = (
    "default-src 'none'; script-src 'self' 'sha256-{map_hash}'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in memory, as it is and compressed, with its type and a tag of its content."""

    content: bytes
    packed: bytes
    media_type: str
    tag: str


class StaticFiles:
    """All files of the pages.  ``page`` returns one of the two pages, ``file`` what belongs to them."""

    def __init__(self, folder: Path = STATIC) -> None:
        sources = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.suffix in TYPES
        }
        for page, parts in STYLES.items():
            sources[f"css/{page}.page.css"] = b"\n".join(sources[part] for part in parts)
        modules = {name: _without_comments(content) for name, content in sources.items() if name.startswith(OWN)}
        for page in PAGES:
            sources[f"{page}.page.js"] = bundle(modules, f"{page}/main.js").encode()
        digest = hashlib.sha256()
        for name, content in sources.items():
            digest.update(f"{name} {len(content)}\n".encode() + content)
        self.root = f"/static/{digest.hexdigest()[:16]}"
        self.policy = POLICY.format(map_hash=_script_hash(self._import_map()))
        self._pages = {page: _stored(self._filled(page, sources), ".html") for page in PAGES}
        self._files = {
            name: _stored(content, Path(name).suffix)
            for name, content in sources.items()
            if ".html" not in name and not name.startswith(OWN)
        }

    def page(self, name: str) -> StoredFile:
        """Return a page: ``play`` or ``dash``."""
        return self._pages[name]

    def file(self, root: str, name: str) -> StoredFile:
        """Return a file by its address.  Raises NotFound."""
        found = self._files.get(name) if f"/static/{root}" == self.root else None
        if found is None:
            raise NotFound("There is no such file, or it was another version's.", code="route_not_found")
        return found

    def _import_map(self) -> str:
        entries = ",".join(f'"{bare}":"{self.root}/vendor/{file}"' for bare, file in IMPORTS.items())
        return f'{{"imports":{{{entries}}}}}'

    def _filled(self, page: str, sources: Mapping[str, bytes]) -> bytes:
        """Return a page with the addresses of its files, and with those to load before they are imported."""
        text = sources[f"{page}.html"].decode()
        preloaded = [f"vendor/{name}" for name in VENDORED]
        links = "\n".join(f'<link rel="modulepreload" href="{self.root}/{name}">' for name in preloaded)
        head = f'<script type="importmap">{self._import_map()}</script>\n{links}'
        return text.replace("<!-- head -->", head).replace("{root}", self.root).encode()


def create_router(context: Context, files: StaticFiles) -> APIRouter:
    """Build the routes of the pages; they need no key, since what they show is asked for with one."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def playground(request: Request) -> Response:
        """The playground, for browsers; for others where everything is."""
        if "text/html" in request.headers.get("accept", ""):
            return _page(request, files, "play")
        links = {
            "models": "/v1/models",
            "openapi": "/openapi.json",
            "health": "/health/ready",
            "dashboard": "/dashboard",
        }
        return JSONResponse({"object": "server", "name": "lego_serve", "links": links}, headers={"vary": "accept"})

    @router.get("/dashboard")
    @router.get("/dashboard/{rest:path}")
    async def dashboard(request: Request, rest: str = "") -> Response:
        """The dashboard: one page, whatever view the address names."""
        return _page(request, files, "dash")

    @router.get("/static/{root}/{name:path}")
    async def static_file(request: Request, root: str, name: str) -> Response:
        """A file of the pages."""
        return _response(request, files.file(root, name), {"cache-control": ONE_YEAR})

    @router.get("/v1/ui")
    async def facts() -> JSONResponse:
        """What the pages need to know before they have a key."""
        settings, runner = context.settings, context.runner
        return JSONResponse(
            {
                "object": "ui",
                "version": __version__,
                "keys": bool(settings.keys),
                "previews": 3,
                "upload_bytes": settings.max_body_bytes,
                "upload_pixels": settings.max_image_pixels,
                "is_ready": runner.is_ready and not context.draining.has_begun,
                "workflows": len(runner.workflows),
            }
        )

    return router


def _page(request: Request, files: StaticFiles, name: str) -> Response:
    headers = {
        "cache-control": REVALIDATED,
        "content-security-policy": files.policy,
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
    }
    return _response(request, files.page(name), headers, vary="accept, accept-encoding")


def _response(
    request: Request, file: StoredFile, headers: Mapping[str, str], vary: str = "accept-encoding"
) -> Response:
    headers = {**headers, "etag": file.tag, "vary": vary}
    if file.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers={**headers, "content-encoding": "gzip"}, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)


def _stored(content: bytes, suffix: str) -> StoredFile:
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:20]}"'  # weak: the compressed one has the same
    return StoredFile(content, gzip.compress(content, 9, mtime=0), TYPES[suffix], tag)


def _without_comments(source: bytes) -> str:
    """Return a module without the comments that have lines of their own, and without types."""
    kept, is_comment = [], False
    for line in source.decode().split("\n"):
        text = line.strip()
        begins = text.startswith("/**") and "*/" not in text
        is_whole = text.startswith("//") or (text.startswith("/**") and text.endswith("*/"))
        if not (is_comment or begins or is_whole):
            kept.append(TYPE_COMMENT.sub("", line))
        is_comment = (is_comment or begins) and not text.endswith("*/")
    return "\n".join(kept)


def _script_hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
