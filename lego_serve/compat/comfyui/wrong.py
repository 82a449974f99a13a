"""A graph whose nodes are each right, but which asks for what cannot be done."""

from lego_serve.compat.comfyui.graph import GraphNode


class Wrong(Exception):
    """A node that asks for what cannot be done, and the input that is to blame."""

    def __init__(self, node: GraphNode, reads: str, input_name: str | None = None) -> None:
        super().__init__(reads)
        self.node = node
        self.message = reads
        self.input = input_name
