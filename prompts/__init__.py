"""The prompts of every family, as Jinja templates, and the one place that renders them.

A template file ends in one newline that is not part of the prompt, as text files do; a prompt that ends in a newline
has two. Values are inserted as they are: nothing is escaped, and a value is never itself rendered as a template.
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
    """A template does not exist, or a value that it names was not given."""


@cache
def _template(name: str) -> Template:
    try:
        return _ENVIRONMENT.get_template(f"{name}.jinja")
    except TemplateNotFound as error:
        raise PromptError(f"there is no prompt {name!r}") from error


def render(name: str, /, **values: object) -> str:
    """Renders a template of this package.

    Args:
        name: path below `prompts/` without the suffix, `genprm/analyze` for example.
        values: what the template names.

    Raises:
        PromptError: there is no such template, or it names a value that is not given.
    """
    return _rendered(name, values) if values else _fixed(name)


@cache
def _fixed(name: str) -> str:
    """A template that names no values."""
    return _rendered(name, {})


def _rendered(name: str, values: dict[str, object]) -> str:
    from jinja2 import UndefinedError

    try:
        return _template(name).render(values)
    except UndefinedError as error:
        raise PromptError(f"prompt {name!r}: {error}") from error


def render_text(source: str, /, **values: object) -> str:
    """Renders a template that a user wrote, by the same rules.

    Raises:
        PromptError: the text is not a template, or it names a value that is not given.
    """
    from jinja2 import TemplateError

    try:
        return _ENVIRONMENT.from_string(source).render(**values)
    except TemplateError as error:
        raise PromptError(f"the template cannot be rendered: {error}") from error
