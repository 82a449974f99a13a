"""The files of a prediction and of a run that is to test it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.prediction.observation import Observation, observation_of
from lego_serve.errors import ConfigError

FORMAT = 1
PREDICTION, RUN = "prediction.json", "summary.json"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was predicted, when, by which code, from which profile; times are UTC in ISO's form."""

    predicted_at: str
    commit: str
    quick: bool
    fitted_from: tuple[str, ...]
    held_out: tuple[str, ...]
    profile_digest: str
    suites: Mapping[str, Observation]


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured of a suite, when, by which code, at the rates of which prediction."""

    began_at: str
    quick: bool
    prediction_digest: str
    observation: Observation
    context: Mapping[str, Any]


def digest_of(path: Path) -> str:
    """Return the digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def write_prediction(folder: Path, prediction: Prediction) -> Path:
    """Write the file and return its path."""
    return _write(folder / PREDICTION, {"format": FORMAT, "kind": "prediction", **asdict(prediction)})


def write_run(folder: Path, run: Run) -> Path:
    """Write the file and return its path."""
    return _write(folder / RUN, {"format": FORMAT, "kind": "run of a prediction", **asdict(run)})


def _write(path: Path, document: Mapping[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def read_prediction(path: Path) -> Prediction:
    """Read the file.  Raises ConfigError for one that is missing or no prediction."""
    found = _read(path, "prediction", "predict")
    try:
        suites = {name: observation_of(each) for name, each in found.pop("suites").items()}
        found |= {key: tuple(found[key]) for key in ("fitted_from", "held_out")}
        return Prediction(**found, suites=suites)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: no prediction ({type(error).__name__}: {error})") from None


def read_run(folder: Path) -> Run:
    """Read a run's file.  Raises ConfigError for one that is missing or no run of a prediction."""
    path = folder / RUN
    found = _read(path, "run of a prediction", "run")
    try:
        observation = observation_of(found.pop("observation"))
        return Run(**found, observation=observation)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: no run of a prediction ({type(error).__name__}: {error})") from None


def _read(path: Path, kind: str, command: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; `{command}` writes it") from None
    if not isinstance(found, dict) or found.get("kind") != kind or found.get("format") != FORMAT:
        raise ConfigError(f"{path}: not a {kind} of format {FORMAT}; `{command}` writes it")
    return {key: value for key, value in found.items() if key not in ("kind", "format")}
