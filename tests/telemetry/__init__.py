"""Telemetry as those receive it who collect it."""
