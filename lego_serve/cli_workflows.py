"""``lego-serve workflows validate|graph FILE``: offline checks of workflow files."""

from pathlib import Path

import typer
from rich.console import Console
from rich.tree import Tree

from lego_serve.core.workflow import Source, Workflow
from lego_serve.workflow_files import read_workflow

app = typer.Typer(no_args_is_help=True, help="Check and draw workflow files, without a server.")
out = Console()


@app.command()
def validate(file: Path) -> None:
    """Check a workflow file; says what is wrong, where, and the nearest right name."""
    workflow = read_workflow(file)
    out.print(f"{workflow.name} {workflow.version}: {len(workflow.nodes)} nodes, hash {workflow.content_hash[:16]}")


@app.command()
def graph(file: Path, mermaid: bool = False) -> None:
    """Draw a workflow's graph, from its outputs down to its inputs."""
    workflow = read_workflow(file)
    if mermaid:
        out.print("\n".join(_mermaid(workflow)), highlight=False, markup=False)
        return
    root = Tree(f"{workflow.name} {workflow.version}")
    for name, source in workflow.outputs.items():
        _grow(root.add(f"{name}: image"), workflow, source)
    out.print(root)


def _grow(branch: Tree, workflow: Workflow, source: Source) -> None:
    node = workflow.nodes[source.node]
    leaf = branch.add(f"{node.name} = {node.kind}({node.model})")
    for argument, value in node.arguments.items():
        if isinstance(value, Source) and value.node != "inputs":
            _grow(leaf.add(argument), workflow, value)
        else:
            leaf.add(f"{argument} = {value}")


def _mermaid(workflow: Workflow) -> list[str]:
    lines = ["graph LR"]
    for node in workflow.nodes.values():
        lines.append(f'  {node.name}["{node.name}: {node.kind} {node.model}"]')
        sources = {a.node for a in node.arguments.values() if isinstance(a, Source)}
        lines += [f"  {source} --> {node.name}" for source in sorted(sources)]
    return lines
