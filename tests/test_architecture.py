"""The house rules that no linter knows."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lego_serve.models.registry import families

ROOT = Path(__file__).parent.parent
SOURCES = [file for room in ("lego_serve", "loadgen", "benchmarks", "deploy") for file in ROOT.glob(f"{room}/**/*.py")]
TESTS = list(ROOT.glob("tests/**/*.py"))


def test_layers_hold() -> None:
    """import-linter keeps every contract of pyproject.toml."""
    script = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_is_longer_than_300_lines() -> None:
    """A file that needs a table of contents is two files; tests are read like sources."""
    long = {str(f.relative_to(ROOT)): n for f in SOURCES + TESTS if (n := len(f.read_text().splitlines())) > 300}
    assert not long


def test_no_test_module_imports_another() -> None:
    """Helpers and fixtures that several test files use live in tests/support or in a conftest.py."""
    imports = [(str(file.relative_to(ROOT)), module) for file in TESTS for module in _imported_modules(file)]
    assert not [place for place in imports if re.match(r"tests\b(?!\.support\b)", place[1])]


def _imported_modules(file: Path) -> Iterator[str]:
    """The modules that a file imports, also those that it takes as names from their package."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            folder = ROOT.joinpath(*node.module.split("."))
            modules = [f"{node.module}.{name.name}" for name in node.names if folder.is_dir()]
            yield from modules or [node.module]


def test_kernels_is_no_package() -> None:
    """A `kernels/__init__.py` would shadow the package of that name that diffusers imports."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_every_module_says_what_it_is() -> None:
    """Each source file with code in it starts with a docstring."""
    silent = [
        str(f.relative_to(ROOT)) for f in SOURCES if f.read_text().strip() and not f.read_text().startswith('"""')
    ]
    assert not silent


MAY_NAME_FAMILIES = {  # everything else asks a family what it wants to know of it
    "lego_serve/configuration/models.py": "the default of a key",
    "lego_serve/models/registry.py": "the same default",
    "lego_serve/models/families/": "a family",
    "lego_serve/models/lora/targets_": "a family's table of names",
    "lego_serve/models/controlnet/sd3.py": "a family's ControlNets",
    "lego_serve/models/controlnet/flux.py": "a family's ControlNets",
}


def family_names(file: Path) -> list[str]:
    """The places where a file's code, not its docstrings and comments, has a family's name as a word."""
    tree = ast.parse(file.read_text())
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words = [
        *(
            (node.lineno, node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and id(node) not in told
        ),
        *((node.lineno, node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)),
        *((node.lineno, name.name) for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names),
    ]
    name = re.compile(rf"(?<![a-z0-9])({'|'.join(families())})(?![a-z0-9])", re.I)
    return [f"{file.relative_to(ROOT)}:{line}: {word}" for line, word in words if name.search(str(word))]


def test_no_code_but_a_familys_own_names_a_family() -> None:
    """So that a new one is a file beside the others; what may name one does, or it would not be listed."""
    found = [place for file in ROOT.glob("lego_serve/**/*.py") for place in family_names(file)]
    assert not [place for place in found if not place.startswith(tuple(MAY_NAME_FAMILIES))]
    assert all(any(place.startswith(listed) for place in found) for listed in MAY_NAME_FAMILIES)


def test_no_folder_has_more_than_14_modules() -> None:
    """A newcomer should guess the right file from a short list."""
    rooms = [
        folder
        for top in ("lego_serve", "loadgen", "benchmarks", "deploy", "kernels", "tests")
        for folder in ROOT.glob(f"{top}/**/")
    ]
    full = {str(room.relative_to(ROOT)): n for room in rooms if (n := len(_modules(room))) > 14}
    assert not full


MIRRORED = {  # the folders of tests that mirror a folder of sources; e2e and support mirror none
    **{f"tests/{name}": f"lego_serve/{name}" for name in ("core", "models", "engine", "serving", "gateway")},
    **{f"tests/{name}": f"lego_serve/{name}" for name in ("compat", "jobstore", "webhooks")},
    **{f"tests/{name}": f"lego_serve/{name}" for name in ("zoo", "process", "cli", "client", "cluster", "planning")},
    **{f"tests/{name}": name for name in ("loadgen", "benchmarks")},
    "tests/kernels": "kernels/lego_kernels",
    "tests/deploy": "deploy",
    "tests/sim": "lego_serve/sim",
}


def test_every_folder_of_tests_mirrors_a_folder_of_sources() -> None:
    """Who knows where code lives knows where its tests do."""
    folders = {
        test_folder.relative_to(ROOT): ROOT / sources / test_folder.relative_to(ROOT / tests)
        for tests, sources in MIRRORED.items()
        for test_folder in (ROOT / tests).glob("**/")
        if any(test_folder.glob("*.py"))
    }
    assert len(folders) > len(MIRRORED)
    assert not [str(tests) for tests, sources in folders.items() if not sources.is_dir()]


def test_the_readmes_map_shows_every_folder_of_the_package() -> None:
    """With a few words each: what a newcomer looks for is there."""
    shown = set(re.findall(r"(?:^| )([a-z0-9_]+)/ +\S", (ROOT / "README.md").read_text(), re.MULTILINE))
    folders = {file.relative_to(ROOT / "lego_serve").parts[0] for file in ROOT.glob("lego_serve/*/**/*.*")}
    assert len(folders) > 15
    assert not {name for name in folders if not name.startswith("__")} - shown


def _modules(room: Path) -> list[Path]:
    return [file for file in room.glob("*.py") if file.name != "__init__.py"]
