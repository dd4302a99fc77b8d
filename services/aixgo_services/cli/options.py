"""Types of options that several commands share."""

from __future__ import annotations

from typing import Any

import click


class DurationType(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic from click 8.4 on
    """`30s`, `5m`, `250ms`, or seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        from aixgo.config.duration import parse_duration  # loads pydantic

        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class AddressType(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # see above
    """`host:port`."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address as it is."""
        from aixgo.config.schema import check_address  # loads pydantic

        try:
            return check_address(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ConnectionType(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # see above
    """`AGENT=host:port` or `AGENT=dns:///host:port`."""

    name = "agent=address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The name and the address as they are."""
        from aixgo.config.schema import check_target  # loads pydantic

        name, equals, address = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is no connection; write AGENT=host:port, or AGENT=dns:///host:port", param, ctx)
        try:
            return name, check_target(address)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()
ADDRESS = AddressType()
CONNECTION = ConnectionType()
