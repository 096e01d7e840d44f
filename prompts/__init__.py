"""The prompts of every family as Jinja templates, and their rendering.

A template file ends in one newline that is not part of the prompt; a prompt that ends in a newline has two. Values are
inserted unchanged: nothing is escaped, and a value is never rendered as a template.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateNotFound

__all__ = ["PromptError", "render", "render_text"]

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=False
)


class PromptError(ValueError):
    """A template does not exist, or one of its values is missing."""


@cache
def _template(name: str) -> Template:
    try:
        return _ENVIRONMENT.get_template(f"{name}.jinja")
    except TemplateNotFound as error:
        raise PromptError(f"there is no prompt {name!r}") from error


def render(name: str, /, **values: object) -> str:
    """Renders a template of this package.

    Args:
        name: path below `prompts/` without the suffix, such as `genprm/analyze`.
        values: the template's variables.

    Raises:
        PromptError: there is no such template, or a value is missing.
    """
    return _rendered(name, values) if values else _fixed(name)


@cache
def _fixed(name: str) -> str:
    """Renders a template without variables, once."""
    return _rendered(name, {})


def _rendered(name: str, values: dict[str, object]) -> str:
    from jinja2 import UndefinedError

    try:
        return _template(name).render(values)
    except UndefinedError as error:
        raise PromptError(f"prompt {name!r}: {error}") from error


def render_text(source: str, /, **values: object) -> str:
    """Renders a user's template by the same rules.

    Raises:
        PromptError: the text is not a template, or a value is missing.
    """
    from jinja2 import TemplateError

    try:
        return _ENVIRONMENT.from_string(source).render(**values)
    except TemplateError as error:
        raise PromptError(f"the template cannot be rendered: {error}") from error
