"""A certificate of a host for tests, which signs itself."""

import shutil
import subprocess
from pathlib import Path

import pytest


def certificate_of(host: str, folder: Path) -> Path:
    """Make a key and a certificate in one file; the test is skipped where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    asked = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*asked, *names, *files], check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())
    return both
