"""Reads workflows from YAML and Python files, and those of the package."""

import runpy
import traceback
from importlib import resources
from pathlib import Path

from lego_serve.core.workflow.compile import compile_workflow
from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import WorkflowError
from lego_serve.yaml_reader import YamlReader

MAX_BYTES = 1 << 20


def load_workflow(text: str, filename: str) -> Workflow:
    """Compile YAML text.  Raises WorkflowError, whose message starts with ``filename:line:``."""
    reader = YamlReader(filename, "workflow", WorkflowError)
    return compile_workflow(reader.read(text), reader.where)


def read_workflow(path: Path) -> Workflow:
    """Compile the workflow of a file: Python (which is run) if the name ends in ``.py``, else YAML.

    Raises WorkflowError.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_BYTES:
            raise WorkflowError(f"{path}: more than {MAX_BYTES} bytes are no workflow")
        text = data.decode()
    except OSError as error:
        raise WorkflowError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WorkflowError(f"{path}: is not UTF-8 text") from None
    return _run_python(path) if path.suffix == ".py" else load_workflow(text, str(path))


def built_in_workflows() -> dict[str, Workflow]:
    """Return the workflows of the package, by name."""
    folder = resources.files("lego_serve") / "workflows"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    workflows = [load_workflow(file.read_text(encoding="utf-8"), file.name) for file in files]
    return {workflow.name: workflow for workflow in workflows}


def _run_python(path: Path) -> Workflow:
    try:
        names = runpy.run_path(str(path))
    except WorkflowError:
        raise
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 1
        raise WorkflowError(f"{path}:{line}: {type(error).__name__}: {error}") from error
    workflows = {id(value): value for value in names.values() if isinstance(value, Workflow)}
    if len(workflows) != 1:
        listed = ", ".join(sorted(workflow.name for workflow in workflows.values()))
        raise WorkflowError(f"{path}:1: a file declares one workflow, this one {listed or 'none'}")
    return next(iter(workflows.values()))
