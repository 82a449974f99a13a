"""Where the paths of a configuration lead."""

from pathlib import Path

from lego_serve import config
from lego_serve.errors import ConfigError
from lego_serve.models.registry import BUILT_IN, built_in_folder

DATA = "data:"


def resolve_path(settings: config.Settings, path: str) -> Path:
    """Where a path of a configuration leads: `builtin:` into this package, `data:` into the server's own folder."""
    if path.startswith(BUILT_IN):
        return built_in_folder(path)
    if path.startswith(DATA):
        return data_folder(settings) / path.removeprefix(DATA)
    return Path(path).expanduser()


def data_folder(settings: config.Settings) -> Path:
    """The folder for what a server keeps beyond its end.  Raises ConfigError where there is no home for a `~`."""
    try:
        return Path(settings.server.data).expanduser().absolute()
    except RuntimeError:
        raise ConfigError("`server.data`: this user has no home folder; name one in full") from None


def state_folder(settings: config.Settings) -> Path:
    """The folder for what the parts of a server on several machines share."""
    return data_folder(settings) / "state"


def own_profiles(settings: config.Settings) -> Path:
    """The folder for profiles of adapters that came with the package."""
    return data_folder(settings) / "profiles"
