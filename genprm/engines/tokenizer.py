"""Text to token ids and back, the same for every engine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from genprm.engines.errors import EngineError
from genprm.engines.hub import check_model
from genprm.engines.tokenizer_files import TokenizerFiles, end_ids

# A typical solution: repeated spaces, newlines, LaTeX, digits, a non-ASCII letter.
_PROBE = "Step 1: 3 + 4 = 7,  so\n\n\t$\\boxed{Yes}$ is right (caf\u00e9).\n```python\n    print(7)\n```\n"

# `<|im_start|>`, `<｜User｜>`, `</think>`, `[INST]`: no space inside, brackets around.
_CONTROL_FORM = re.compile(r"<\S+>|\[\S+\]")

# Private code points around the number of a guarded piece of text while a chat template is rendered.
_OPEN, _CLOSE = "\U0010fff0", "\U0010fff1"
_GUARDED = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


class Trusted(str):
    """Text that may contain control tokens: our own, or a chat template's."""


class Untrusted(str):
    """Text of problems, steps and models: a control token's text in it is encoded as plain characters."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A named position between two parts of a text."""

    name: str


Part = Trusted | Untrusted | Mark


@dataclass(frozen=True, slots=True)
class MarkedIds:
    """Token ids of a text built from parts."""

    ids: list[int]
    ends: dict[str, list[int]]
    """Name of a mark -> number of ids up to each mark of that name, in order. The last of these ids contains the last
    character before the mark."""


class Tokenizer:
    """A Hugging Face fast tokenizer that adds no tokens on its own and never lets text forge a control token.

    Args:
        hf: a `TokenizerFiles` or a `transformers.PreTrainedTokenizerFast`.
        eos_ids: ids that end a turn besides the tokenizer's own end-of-sequence token.
        name: what error messages call this tokenizer.

    Raises:
        EngineError: text does not survive encoding and decoding.
    """

    def __init__(self, hf: Any, eos_ids: Sequence[int] = (), name: str = "tokenizer") -> None:
        backend: tokenizers.Tokenizer = hf.backend_tokenizer
        self.name = name
        self._hf = hf
        state: dict[str, Any] = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        # Nothing is added to texts anyway, and byte-level post-processors would trim spaces from the tokens' offsets.
        self._special = tokenizers.Tokenizer.from_str(json.dumps(state | {"post_processor": None}))
        # `encode_special_tokens` of the library splits only tokens flagged special; DeepSeek's <｜User｜> is not. Runs
        # of white space are added tokens in some vocabularies and are ordinary text: they stay.
        # So are phrases that are single tokens of a vocabulary: only text in the form of a control token is guarded.
        added = state["added_tokens"]
        control = [token["content"] for token in added if token["special"] or _CONTROL_FORM.fullmatch(token["content"])]
        state["added_tokens"] = [token for token in added if token["content"] not in control]
        self._plain = tokenizers.Tokenizer.from_str(json.dumps(state | {"post_processor": None}))
        longest_first = [*sorted(control, key=len, reverse=True), _OPEN, _CLOSE]
        self._control = re.compile("|".join(re.escape(text) for text in longest_first))
        self.bos_id: int | None = hf.bos_token_id
        # A class that builds its own post-processor declares what it adds; for others it is in the files.
        declared: bool | None = getattr(hf, "add_bos_token", None)
        self.adds_bos: bool = bool(declared) or (
            self.bos_id is not None and backend.encode("a", add_special_tokens=True).ids[:1] == [self.bos_id]
        )
        """Whether the model's own tokenizer puts a begin-of-sequence token before a text. `encode` never does."""
        self.eos_id: int | None = hf.eos_token_id
        own = () if self.eos_id is None else (self.eos_id,)
        self.eos_ids: frozenset[int] = frozenset((*own, *eos_ids))
        """Every id that ends a turn: the tokenizer's own and those of the model's generation_config.json."""
        self.vocab_size: int = max(self._special.get_vocab(with_added_tokens=True).values()) + 1
        """One more than the largest token id; a model may have more rows than that."""
        for special in (False, True):
            if (back := self.decode(self.encode(_PROBE, special=special))) != _PROBE:
                raise EngineError(
                    f"the tokenizer of {name!r} does not preserve text: {_PROBE!r} became {back!r}. "
                    "Pass a folder or model id with a working tokenizer.json as the tokenizer."
                )

    @classmethod
    def from_pretrained(cls, path_or_id: str, revision: str | None = None) -> Tokenizer:
        """Loads the tokenizer of a local folder or a model of the Hub.

        Raises:
            EngineError: no tokenizer is found there, or it loses text.
        """
        if not Path(path_or_id).is_dir():
            check_model(path_or_id, revision)
        # Read directly: the class that a model declares may rebuild its tokenizer by its own rules (LlamaTokenizer,
        # which the R1 distillations declare, then drops spaces).
        hf: Any = TokenizerFiles.load(path_or_id, revision) or _converted(path_or_id, revision)
        return cls(hf, end_ids(path_or_id, revision), name=path_or_id)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of a text; nothing is added before or after it.

        Args:
            text: any text.
            special: whether the text may contain control tokens, like a rendered chat template. By default a literal
                `<｜User｜>` is encoded as plain characters, whoever wrote it.
        """
        return (self._special if special else self._plain).encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids: control tokens appear as their text, and spaces are not cleaned up.

        Bytes that do not form a complete character become U+FFFD.
        """
        return self._special.decode(list(ids), skip_special_tokens=False)

    def render_chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """Renders a conversation in the model's chat template, with control tokens: encode it with `special=True`.

        Untrusted messages can forge control tokens in this text; use `encode_chat` to prevent that.

        Raises:
            EngineError: the tokenizer has no chat template, or the template refuses the messages.
        """
        if self._hf.chat_template is None:
            raise EngineError(f"the tokenizer of {self.name!r} has no chat template")
        try:
            return self._hf.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # errors of jinja2 and of templates have no common base
            raise EngineError(f"the chat template of {self.name!r} refused the messages: {error}") from error

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, suffix: str = ""
    ) -> list[int]:
        """Token ids of a conversation with untrusted messages: control tokens come only from the template.

        For messages without the text of a control token these are the ids of the rendered chat as one text.

        Args:
            messages: dicts with `role` and `content`.
            add_generation_prompt: whether to end with the opening of the assistant's turn.
            suffix: text after the rendered chat, tokenised together with it, such as a forced opening.
        """
        guarded: list[str] = []
        safe = [dict(message) | {"content": self._guard(message["content"], guarded)} for message in messages]
        return self._encode_guarded(
            self.render_chat(safe, add_generation_prompt) + self._guard(suffix, guarded), guarded
        )

    def encode_parts(self, *parts: Trusted | Untrusted) -> list[int]:
        """Token ids of text built from parts, tokenised as one text."""
        guarded: list[str] = []
        return self._encode_guarded("".join(self._part(part, guarded) for part in parts), guarded)

    def encode_marked(self, *parts: Part, joined: bool = True) -> MarkedIds:
        """Token ids of text built from parts, and the positions of the marks between them.

        Args:
            parts: texts and marks, in order.
            joined: whether the texts are tokenised as one; else each separately.
        """
        ids: list[int] = []
        ends: dict[str, list[int]] = {}
        if not joined:
            for part in parts:
                if isinstance(part, Mark):
                    ends.setdefault(part.name, []).append(len(ids))
                else:
                    ids += self.encode_parts(part)
            return MarkedIds(ids, ends)
        guarded: list[str] = []
        text, limits = "", list[tuple[str, int]]()
        for part in parts:
            if isinstance(part, Mark):
                limits.append((part.name, len(text)))
            else:
                text += self._part(part, guarded)
        starts: list[int] = []  # of each token, where its text begins
        position = 0
        for index, piece in enumerate(_GUARDED.split(text)):
            if index % 2:
                ids += (literal := self.encode(guarded[int(piece)]))
                starts += [position] * len(literal)
                position += len(_OPEN) + len(piece) + len(_CLOSE)
            else:
                encoded = self._special.encode(piece, add_special_tokens=False)
                ids += encoded.ids
                starts += [position + start for start, _ in encoded.offsets]
                position += len(piece)
        for name, limit in limits:
            ends.setdefault(name, []).append(bisect_left(starts, limit))
        return MarkedIds(ids, ends)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of vocabulary and rules, equal for tokenizers that encode every text alike."""
        return hashlib.blake2b(self._special.to_str().encode(), digest_size=16).hexdigest()

    def _part(self, part: Trusted | Untrusted, guarded: list[str]) -> str:
        return part if isinstance(part, Trusted) else self._guard(part, guarded)

    def _guard(self, text: str, guarded: list[str]) -> str:
        """Moves every control token of a text to `guarded`, and puts a placeholder in its place."""

        def guard(match: re.Match[str]) -> str:
            guarded.append(match.group())
            return f"{_OPEN}{len(guarded) - 1}{_CLOSE}"

        return self._control.sub(guard, text)

    def _encode_guarded(self, text: str, guarded: list[str]) -> list[int]:
        ids: list[int] = []
        for index, piece in enumerate(_GUARDED.split(text)):
            ids += self.encode(guarded[int(piece)]) if index % 2 else self.encode(piece, special=True)
        return ids


def _converted(path_or_id: str, revision: str | None) -> Any:
    """Makes a tokenizer without a `tokenizer.json`, if transformers can convert the existing files."""
    missing = f"there is no tokenizer.json in {path_or_id!r}"
    if importlib.util.find_spec("transformers") is None:
        raise EngineError(
            f"{missing}, and transformers, which may convert other files, is not installed: "
            "pip install 'genprm[torch]', or name the folder of the tokenizer (tokenizer=...)"
        )
    import transformers

    where: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        hf: Any = transformers.AutoTokenizer.from_pretrained(path_or_id, **where)
    except Exception as error:
        raise EngineError(f"{missing}, and transformers cannot convert its files: {error}") from error
    if not hf.is_fast:
        raise EngineError(f"{missing}, and transformers cannot convert its tokenizer")
    return hf
