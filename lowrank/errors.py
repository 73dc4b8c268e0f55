"""The one kind of error that a user is meant to see: no traceback, a line that says what can be done."""

from __future__ import annotations


class InputError(ValueError):
    """What a user asked for cannot be done; the message is one line that says what can, whatever the names in it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).splitlines()))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]
