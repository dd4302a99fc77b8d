"""An error class of the agents' author, as an application would define one."""

from __future__ import annotations

from aixgo.errors import AixgoError, Code


class OutOfStock(AixgoError):  # errors of aixgo are named after what happened
    """An error of the agents' author, with fields of its own."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"only {left} of {item} left", fields={"item": item, "left": left})

    @property
    def item(self) -> str:
        """What is out of stock."""
        return self.fields["item"]
