"""Ray's token: where it is looked for, and what is said where there is none."""

from pathlib import Path

import pytest

from lego_serve.errors import ConfigError
from lego_serve.process.ray_token import require_token

ASKED = {"RAY_AUTH_MODE": "token"}


def test_nothing_is_wanted_where_ray_asks_for_no_token(tmp_path: Path) -> None:
    """As on one machine."""
    require_token({}, tmp_path)
    require_token({"RAY_AUTH_MODE": "disabled"}, tmp_path)


def test_a_token_is_found_where_ray_finds_it(tmp_path: Path) -> None:
    """In the environment, in a named file, in the home folder."""
    require_token(ASKED | {"RAY_AUTH_TOKEN": "t"}, tmp_path)
    named, own = tmp_path / "named", tmp_path / ".ray" / "auth_token"
    named.write_text("t")
    require_token(ASKED | {"RAY_AUTH_TOKEN_PATH": str(named)}, tmp_path)
    own.parent.mkdir()
    own.write_text("t")
    require_token(ASKED, tmp_path)


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_a_token_that_is_missing_is_one_line(tmp_path: Path, text: str | None) -> None:
    """It says where one may be put."""
    if text is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(text)
    with pytest.raises(ConfigError) as refused:
        require_token(ASKED | {"RAY_AUTH_TOKEN": " "}, tmp_path)
    path = tmp_path / ".ray" / "auth_token"
    assert (
        refused.value.message
        == f"RAY_AUTH_MODE is token, and there is none: set RAY_AUTH_TOKEN, or write it into {path}"
    )
