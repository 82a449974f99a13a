"""What is wrong with a prompt, in the words and shapes of ComfyUI's answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Json = dict[str, object]
TITLES = {
    "required_input_missing": "Required input is missing",
    "bad_linked_input": "Bad linked input, must be a length-2 list of [node_id, slot_index]",
    "return_type_mismatch": "Return type mismatch between linked nodes",
    "value_not_in_list": "Value not in list",
    "dependency_cycle": "Dependency cycle detected",
    "custom_validation_failed": "Custom validation failed for node",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one node: ComfyUI's word for its kind, its message, and what exactly."""

    node: str
    kind: str
    details: str
    input: str | None = None
    message: str = ""
    extra: Mapping[str, object] = field(default_factory=dict)

    def body(self) -> Json:
        """Return the fault as an entry of `errors`."""
        named = {} if self.input is None else {"input_name": self.input}
        message = self.message or TITLES[self.kind]
        return {"type": self.kind, "message": message, "details": self.details, "extra_info": {**named, **self.extra}}


class PromptRefused(Exception):
    """A prompt that cannot run: the fault of the whole, and those of its nodes."""

    def __init__(
        self,
        kind: str,
        message: str,
        details: str = "",
        faults: Sequence[Fault] = (),
        node_errors: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.error: Json = {"type": kind, "message": message, "details": details, "extra_info": {}}
        self.node_errors: Json = dict(node_errors or {})
        self._lines = [f"node {fault.node}: {fault.body()['message']}: {fault.details}" for fault in faults]

    @property
    def lines(self) -> list[str]:
        """The refusal as lines of text, one for each fault."""
        return list(self._lines) or [str(self)]

    @property
    def body(self) -> Json:
        """The answer, to be sent with status 400."""
        return {"error": self.error, "node_errors": self.node_errors}


def refused(faults: Sequence[Fault], classes: Mapping[str, str], outputs: Iterable[str]) -> PromptRefused:
    """Return the refusal of a prompt for faults of its nodes, of which each stops all ``outputs``."""
    if all(fault.kind == "missing_node_type" for fault in faults):
        kind, message = "missing_node_type", faults[0].message
    else:
        kind, message = "prompt_outputs_failed_validation", "Prompt outputs failed validation"
    details = "\n".join(f"{fault.body()['message']}: {fault.details}" for fault in faults)
    by_node: dict[str, list[Json]] = {}
    for fault in faults:
        by_node.setdefault(fault.node, []).append(fault.body())
    stopped = sorted(outputs)
    errors = {
        node: {"errors": bodies, "dependent_outputs": stopped, "class_type": classes.get(node, "")}
        for node, bodies in by_node.items()
    }
    return PromptRefused(kind, message, details, faults, errors)
