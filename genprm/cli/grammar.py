"""Command line syntax: flags allowed anywhere, and arguments shown without braces in the help."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

ANYWHERE = ("--debug", "-q", "--quiet", "-v", "--verbose")
"""Flags of `genprm` itself, also allowed after the command."""


class Root(TyperGroup):
    """`genprm`, whose own flags are allowed anywhere before a `--`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Moves them to the front, where click expects a group's options."""
        end = args.index("--") if "--" in args else len(args)
        own = [one for one in args[:end] if one in ANYWHERE]
        return super().parse_args(ctx, [*own, *(one for one in args[:end] if one not in ANYWHERE), *args[end:]])


class Command(TyperCommand):
    """A command whose usage line has `FILE...` instead of typer's `{FILE}...`."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        for one in self.params:
            if isinstance(one, TyperArgument):
                one.__class__ = _Argument


class _Argument(TyperArgument):
    def get_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().get_usage_pieces(ctx)]
