"""Captions: what a picture shows as it is, in words, which prime what its edits read."""

from lego_serve.core.workflow import Workflow
from lego_serve.gateway.template_files import Template


def caption_of(workflow: Workflow, said: str | None, template: Template | None) -> dict[str, object]:
    """The workflow's input of an edit's caption: what its request says, or else its template's; none without either.

    Where the workflow takes none, one that is said is given all the same, to be refused; a template's is left out.
    """
    if said is not None:
        return {"caption": said}
    kept = None if template is None else template.caption
    return {} if kept is None or "caption" not in workflow.inputs else {"caption": kept}
