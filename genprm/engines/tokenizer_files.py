"""A model's tokenizer and chat template, read from its files with only `tokenizers` and `jinja2`.

So a client of a server needs neither PyTorch nor transformers. Ids and chats are the same as with
`transformers.PreTrainedTokenizerFast`; tests compare the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import tokenizers
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from genprm.engines.errors import EngineError
from genprm.engines.hub import find_file

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TokenizerFiles:
    """The parts of a tokenizer that `Tokenizer` needs.

    Args:
        backend: the tokenizer of `tokenizer.json`.
        special: the text of the named special tokens, such as `bos_token`.
        chat_template: Jinja source; None if the model has none.
        add_bos: whether the model's own tokenizer puts its begin-of-sequence token before every text; None if its
            configuration does not say.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special: Mapping[str, str],
        chat_template: str | None,
        add_bos: bool | None = None,
    ) -> None:
        self.backend_tokenizer = backend
        self.special = dict(special)
        self.chat_template = chat_template
        self.add_bos_token = add_bos

    @classmethod
    def load(cls, model: str, revision: str | None = None) -> TokenizerFiles | None:
        """Reads the files of a folder or Hub model; None if there is no `tokenizer.json`.

        Raises:
            EngineError: a file has the wrong content.
        """
        found = find_file(model, "tokenizer.json", revision)
        if found is None:
            return None
        try:
            backend = tokenizers.Tokenizer.from_file(str(found))
        except Exception as error:  # tokenizers raises bare Exception
            raise EngineError(f"{found} is not a tokenizer: {error}") from error
        config = _read_json(find_file(model, "tokenizer_config.json", revision))
        named = _read_json(find_file(model, "special_tokens_map.json", revision)) | config
        special = {name: _text(named[name]) for name in _NAMED if named.get(name) is not None}
        _add_missing(backend, config, special)
        template = find_file(model, "chat_template.jinja", revision)
        source = config.get("chat_template") if template is None else template.read_text(encoding="utf-8")
        if source is None:
            source = _read_json(find_file(model, "chat_template.json", revision)).get("chat_template")
        if isinstance(source, list):
            # Several named templates; `default` is for ordinary chats.
            source = next((one["template"] for one in source if one["name"] == "default"), None)
        return cls(backend, special, source, config.get("add_bos_token"))

    @property
    def bos_token(self) -> str | None:
        """The begin-of-sequence token's text."""
        return self.special.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The end-of-sequence token's text."""
        return self.special.get("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The begin-of-sequence token's id."""
        return None if self.bos_token is None else self.backend_tokenizer.token_to_id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """The end-of-sequence token's id."""
        return None if self.eos_token is None else self.backend_tokenizer.token_to_id(self.eos_token)

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, tokenize: bool = False
    ) -> str:
        """Renders a conversation as the model's input text.

        Raises:
            TemplateError: the template refuses the messages.
        """
        assert not tokenize
        if self.chat_template is None:
            raise TemplateError("there is no chat template")
        template = self._environment.from_string(self.chat_template)
        return template.render(
            messages=conversation,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self.special,
        )

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        functions: dict[str, Any] = {"raise_exception": _refuse, "strftime_now": _now}
        environment.globals.update(functions)
        environment.filters["tojson"] = _tojson
        return environment


def end_ids(model: str, revision: str | None = None) -> list[int]:
    """The end-of-turn ids in a model's `generation_config.json`; none without this file."""
    ends = _read_json(find_file(model, "generation_config.json", revision)).get("eos_token_id")
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training masks; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: object, indent: int | None = None, **options: Any) -> str:
    # Unlike jinja2's own filter, templates of models do not escape for HTML.
    return json.dumps(value, ensure_ascii=options.pop("ensure_ascii", False), indent=indent, **options)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _read_json(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise EngineError(f"{file} does not hold a JSON object")
    return found


def _text(token: object) -> str:
    """A token's text, from a string or an object with properties."""
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _add_missing(backend: tokenizers.Tokenizer, config: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """Adds the tokens that are only in `tokenizer_config.json`."""
    fields = ("lstrip", "normalized", "rstrip", "single_word", "special")
    known = backend.get_added_tokens_decoder()
    added = {int(index): token for index, token in (config.get("added_tokens_decoder") or {}).items()}
    for index, token in sorted(added.items()):
        if index not in known:
            made = tokenizers.AddedToken(
                token["content"], **{name: bool(token[name]) for name in fields if name in token}
            )
            backend.add_tokens([made])
    missing = [text for text in special.values() if backend.token_to_id(text) is None]
    backend.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True) for text in missing])
