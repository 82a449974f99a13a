"""Modules joined into one: they do what they did, in the order of their imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from lego_serve.gateway.ui.bundle import BundleError, bundle

DENO = Path(sys.executable).parent / "deno"
SOURCES = {
    "app/a.js": 'export const one = 1;\nconst own = "a";\nexport function name() {\n  return own;\n}',
    "app/b.js": 'import * as a from "./a.js";\nconst own = "b";\nexport class Pair {\n  both = [a.name(), own];\n}\n',
    "page/main.js": (
        'import { one as first } from "../app/a.js";\nimport {\n  Pair,\n} from "../app/b.js";\n'
        "const own = new Pair();\nexport { own };\nconsole.log(JSON.stringify([first, own.both]));\n"
    ),
}


def test_names_stay_a_modules_own_and_exports_reach_others(tmp_path: Path) -> None:
    """Run by deno, which knows nothing of where it came from."""
    file = tmp_path / "page.js"
    file.write_text(bundle(SOURCES, "page/main.js"))
    done = subprocess.run([DENO, "run", "--no-prompt", file], capture_output=True, text=True, check=False)
    assert done.stdout == '[1,["a","b"]]\n', done.stderr


def test_what_nobody_imports_is_left_out_and_bare_names_come_first() -> None:
    """Once each, whoever imports them."""
    sources = SOURCES | {
        "app/z.js": "export const unused = 1;",
        "app/a.js": 'import { h } from "preact";\n' + SOURCES["app/a.js"],
        "app/b.js": 'import { h } from "preact";\n' + SOURCES["app/b.js"],
    }
    text = bundle(sources, "page/main.js")
    assert text.startswith('import { h } from "preact";\n')
    assert text.count("import ") == 1
    assert "unused" not in text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"app/a.js": 'import { Pair } from "./b.js";'}, "a circle"),
        ({"app/a.js": 'import { x } from "./nope.js";'}, "imports app/nope.js, which is not there"),
        ({"app/a.js": "export default 1;"}, "cannot be joined with others: export default"),
        ({"app/a.js": "export let one = 1;"}, "cannot be joined"),
        ({"app/a.js": 'export const later = () => import("./b.js");'}, "cannot be joined"),
    ],
)
def test_what_cannot_be_joined_is_refused(changed: dict[str, str], words: str) -> None:
    """By its module and the line."""
    with pytest.raises(BundleError, match=words):
        bundle(SOURCES | changed, "page/main.js")
