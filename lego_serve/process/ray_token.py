"""Whether Ray's token is there where Ray is told to ask for one."""

from collections.abc import Mapping
from pathlib import Path

from lego_serve.errors import ConfigError


def require_token(environment: Mapping[str, str], home: Path) -> None:
    """Raise ConfigError where Ray is to authenticate by a token and has none: it would wait, or let nobody in.

    Ray looks into RAY_AUTH_TOKEN, into the file that RAY_AUTH_TOKEN_PATH names, and into ~/.ray/auth_token.
    """
    if environment.get("RAY_AUTH_MODE", "").lower() != "token" or environment.get("RAY_AUTH_TOKEN", "").strip():
        return
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else home / ".ray" / "auth_token"
    try:
        is_there = bool(path.read_text().strip())
    except OSError:
        is_there = False
    if not is_there:
        raise ConfigError(f"RAY_AUTH_MODE is token, and there is none: set RAY_AUTH_TOKEN, or write it into {path}")
