"""``lego-serve workflows validate | graph | import FILE``: checks, draws and makes workflow files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from lego_serve.cli.import_workflow import imported
from lego_serve.core.workflow.graph import Node, Source, Workflow
from lego_serve.errors import WorkflowError
from lego_serve.workflow_files import read_workflow

app = typer.Typer(no_args_is_help=True, help="Check, draw and import workflow files, without a server.")
File = Annotated[Path, typer.Argument(help="A YAML file, or a Python file (which is run).")]


@app.command()
def validate(file: File) -> None:
    """Check a workflow file; errors name the line and the nearest right name."""
    workflow = _read(file)
    typer.echo(f"{file}: workflow {workflow.name} {workflow.version} is right, hash {workflow.content_hash}")
    typer.echo(f"inputs: {', '.join(workflow.inputs)}")
    typer.echo(f"models: {', '.join(sorted(workflow.models))}")


@app.command()
def graph(
    file: File, mermaid: Annotated[bool, typer.Option(help="Write a Mermaid flowchart instead of a tree.")] = False
) -> None:
    """Draw a workflow's graph, from its outputs back to its inputs."""
    workflow = _read(file)
    if mermaid:
        typer.echo("\n".join(_mermaid(workflow)))
        return
    root = Tree(Text(f"{workflow.name} {workflow.version}"))
    drawn: set[str] = set()
    for name, source in workflow.outputs.items():
        _grow(root, name, source, workflow, drawn)
    Console(soft_wrap=True).print(root)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="A workflow in ComfyUI's API format, a JSON file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of stdout.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The key of the configuration's `models`, instead of the checkpoint's name.")
    ] = None,
) -> None:
    """Make a workflow file of a ComfyUI workflow; errors name the node, and the nearest that is known."""
    try:
        text = imported(file, model)
        if out is None:
            typer.echo(text, nl=False)
        else:
            out.write_text(text, encoding="utf-8")
    except WorkflowError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"{out}: cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None


def _read(file: Path) -> Workflow:
    """Return the workflow of a file; an error is one line on stderr and exit status 1."""
    try:
        return read_workflow(file)
    except WorkflowError as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(1) from None


def _grow(tree: Tree, label: str, value: object, workflow: Workflow, drawn: set[str]) -> None:
    """Add the source of an argument or output to a tree; a node with several users is drawn once in full."""
    if not isinstance(value, Source) or value.node == "inputs":
        tree.add(Text(f"{label} = {value if isinstance(value, Source) else repr(value)}"))
        return
    node = workflow.nodes[value.node]
    is_drawn = node.name in drawn
    branch = tree.add(Text(f"{label} = {value}: {_title(node)}{' (drawn above)' if is_drawn else ''}"))
    drawn.add(node.name)
    if not is_drawn:
        for name, argument in node.arguments.items():
            _grow(branch, name, argument, workflow, drawn)


def _title(node: Node) -> str:
    return f"{node.kind} of {node.model}"


def _mermaid(workflow: Workflow) -> Iterator[str]:
    """Yield the lines of a flowchart from inputs to outputs; ids are prefixed, since `end` and others are keywords."""
    yield "flowchart LR"
    yield from (f'  in_{name}(["{name}: {declared.type}"])' for name, declared in workflow.inputs.items())
    for node in workflow.nodes.values():
        yield f'  node_{node.name}["{node.name}: {_title(node)}"]'
        for name, value in node.arguments.items():
            if isinstance(value, Source):
                yield f"  {_id(value)} -->|{name}| node_{node.name}"
    for name, source in workflow.outputs.items():
        yield f'  {_id(source)} --> out_{name}(["{name}"])'


def _id(source: Source) -> str:
    return f"in_{source.output}" if source.node == "inputs" else f"node_{source.node}"
