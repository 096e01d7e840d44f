"""How the command line reads: flags that may stand anywhere, and arguments that help shows without braces."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

ANYWHERE = ("--debug", "-q", "--quiet", "-v", "--verbose")
"""Flags of `genprm` itself, which may also stand behind the command."""


class Root(TyperGroup):
    """`genprm`, whose own flags may stand anywhere before a `--`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Moves them to the front, where the options of a group belong."""
        end = args.index("--") if "--" in args else len(args)
        own = [one for one in args[:end] if one in ANYWHERE]
        return super().parse_args(ctx, [*own, *(one for one in args[:end] if one not in ANYWHERE), *args[end:]])


class Command(TyperCommand):
    """A command whose usage line reads `FILE...` where typer writes `{FILE}...`."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        for one in self.params:
            if isinstance(one, TyperArgument):
                one.__class__ = _Argument


class _Argument(TyperArgument):
    def get_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().get_usage_pieces(ctx)]
