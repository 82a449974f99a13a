"""The callback that receives what a run reports while it measures."""

from collections.abc import Callable

OnLine = Callable[[str], None]  # receives one line of progress
