"""The pages and their files: what browsers get of them, and what they may do."""

import gzip
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lego_serve.gateway.ui.pages import StaticFiles
from lego_serve.gateway.ui.routes import static_files

ROOT = Path(__file__).parents[3]
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
KB = 1000


def sizes(page: str, files: StaticFiles) -> int:
    """The bytes on the wire of a page and of the files that it loads at its start."""
    text = files.page(page).content.decode()
    names = {name.removeprefix(f"{files.root}/") for name in re.findall(r'(?:href|src)="(/static/[^"]+)"', text)}
    stored = [files.file(files.root.removeprefix("/static/"), name) for name in names]
    return len(files.page(page).packed) + sum(len(file.packed) for file in stored)


async def test_browsers_get_the_playground_and_programs_get_json(client) -> None:
    """By what they accept; caches keep both apart."""
    page = await client.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Playground" in page.text
    for headers in ({}, {"accept": "application/json"}):
        answer = await client.get("/", headers=headers)
        assert answer.json()["links"]["openapi"] == "/openapi.json"
        assert answer.headers["vary"] == "accept"
    assert page.headers["vary"] == "accept, accept-encoding"


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/requests/job_1?state=running"])
async def test_the_dashboard_is_one_page_for_every_address(client, path: str) -> None:
    """So that an address can be sent to somebody."""
    assert "<title>Dashboard" in (await client.get(path, headers=BROWSER)).text


async def test_pages_run_no_script_but_their_own(client) -> None:
    """No inline script runs but the import map, whose hash the policy has; nothing comes from elsewhere."""
    page = await client.get("/", headers=BROWSER)
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert page.text.count("<script>") == 0
    assert not re.findall(r'(?:src|href)="(?!/static/|data:)', page.text)
    assert page.headers["referrer-policy"] == "no-referrer"


async def test_files_are_kept_for_good_and_pages_are_asked_for_again(client) -> None:
    """An address holds a hash of all files; a page that has not changed is 304."""
    page = await client.get("/", headers=BROWSER)
    script = re.search(r'src="(/static/\w+/play.page.js)"', page.text)
    assert script is not None
    file = await client.get(script[1])
    assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert file.headers["content-type"] == "text/javascript; charset=utf-8"
    again = await client.get("/", headers=BROWSER | {"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.get(script[1].replace("play.page", "nope"))).status_code == 404
    assert (await client.get("/static/0000/play.page.js")).status_code == 404
    assert (await client.get(f"{script[1]}/../../../pages.py")).status_code == 404


async def test_files_are_compressed_where_that_is_accepted(client) -> None:
    """Once, at the start."""
    page = await client.get("/", headers=BROWSER | {"accept-encoding": "gzip"})
    plain = await client.get("/", headers=BROWSER | {"accept-encoding": "identity"})
    assert page.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert page.text == plain.text == gzip.decompress(static_files().page("play").packed).decode()


async def test_what_pages_know_before_they_have_a_key(client, runner) -> None:
    """Whether there are keys, the limits of uploads, and whether the models have been loaded."""
    facts = (await client.get("/v1/ui")).json()
    assert (facts["keys"], facts["is_ready"], facts["upload_bytes"], facts["previews"]) == (False, True, 200_000, 3)
    runner.is_ready = False
    assert (await client.get("/v1/ui")).json()["is_ready"] is False


def test_pages_are_small() -> None:
    """On the wire: the playground within 50 kB, the dashboard within 80 kB."""
    files = static_files()
    assert sizes("play", files) <= 50 * KB
    assert sizes("dash", files) <= 80 * KB


def test_a_browser_asks_for_few_files() -> None:
    """With the stream, a request's whole story and what it asks about itself the dashboard stays within fourteen."""
    for page, most in (("play", 11), ("dash", 11)):
        text = static_files().page(page).content.decode()
        names = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', text))
        assert len(names) + 1 <= most


@pytest.mark.long
def test_a_wheel_has_the_pages(tmp_path: Path) -> None:
    """An installed package serves what a checkout serves."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    installed = tmp_path / "installed" / "lego_serve" / "gateway" / "ui" / "static"
    assert StaticFiles(installed).root == static_files().root
