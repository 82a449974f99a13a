"""The vendored files are those of their packages, byte by byte."""

import hashlib
import re

from lego_serve.gateway.ui.pages import IMPORTS, STATIC

VENDOR = STATIC / "vendor"
ROW = re.compile(r"\| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| ([0-9a-f]{64}) \|")


def test_every_vendored_file_has_the_hash_that_is_written_down() -> None:
    """So that nobody changes one by hand."""
    written = {row[0]: row[5] for row in ROW.findall((VENDOR / "README.md").read_text())}
    files = [file for file in VENDOR.iterdir() if file.suffix in (".js", ".mjs", ".css")]
    assert {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files} == written


def test_every_import_leads_to_a_vendored_file() -> None:
    """The page's import map names no file that is not there."""
    assert all((VENDOR / name).is_file() for name in IMPORTS.values())


def test_licences_come_along() -> None:
    """MIT and Apache-2.0 both ask for their text."""
    text = (VENDOR / "LICENSES.txt").read_text()
    assert all(name in text for name in ("preact", "htm", "uplot", "signals-core", "Apache License", "MIT License"))


def test_no_file_of_the_pages_is_longer_than_300_lines() -> None:
    """As everywhere; what others wrote apart."""
    files = [file for folder in ("app", "play", "dash") for file in (STATIC / folder).rglob("*.js")]
    assert files
    assert not [file.name for file in files if len(file.read_text().splitlines()) > 300]
