"""`isae-store ls | head | merge | convert`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands to `isae-store`."""
