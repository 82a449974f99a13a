"""What Serve's controller and gateways share of the number of replicas, in memory."""


class FakeStore:
    """Texts in a dictionary, while Ray is there."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.is_gone = False
        self.looks = 0

    def get(self, key: str) -> str:
        """A text, or an empty one."""
        self._check()
        return self.texts.get(key, "")

    def put(self, key: str, text: str) -> None:
        """Write one."""
        self._check()
        self.texts[key] = text

    def remove(self, key: str) -> None:
        """Remove one."""
        self._check()
        self.texts.pop(key, None)

    def keys(self, beginning: str) -> list[str]:
        """Those that begin so."""
        self._check()
        self.looks += 1
        return [key for key in self.texts if key.startswith(beginning)]

    def _check(self) -> None:
        if self.is_gone:
            raise ConnectionError("no Ray")
