"""Log-probabilities of given tokens from any engine, with a cache on disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import tempfile
from array import array
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from genprm.engines.base import Engine, RunsModel
from genprm.engines.errors import ContextOverflowError
from genprm.engines.tokenizer import Tokenizer
from genprm.prms.base import PRMError
from genprm.prms.batching import Batcher

_MAGIC = b"genprm-logprobs-1\n"
_DIGEST_BYTES = 16
BATCH_TOKENS = 8192
"""Tokens per batch, including padding: one forward pass on a GPU."""


class LogprobCache:
    """A folder of log-probabilities, one small file per entry.

    Any number of processes may use it at once: a file is written atomically, and a damaged one is ignored and written
    again. Values are stored in float32, the precision in which models compute them.

    Args:
        folder: created with the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(model: str, tokenizer: str, ids: Sequence[int], start: int) -> str:
        """The key of an entry.

        Args:
            model: identifies the weights and their precision.
            tokenizer: the tokenizer's fingerprint.
            ids: the tokens.
            start: index of the first token to score.
        """
        what = f"{model}\n{tokenizer}\n{start}\n".encode()
        return hashlib.blake2b(what + array("q", ids).tobytes(), digest_size=20).hexdigest()

    def get(self, key: str, count: int) -> list[float] | None:
        """The entry's values; None if it does not exist or does not have `count` values."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        payload = data[len(_MAGIC) : -_DIGEST_BYTES]
        if not data.startswith(_MAGIC) or len(payload) != 4 * count or _digest(payload) != data[-_DIGEST_BYTES:]:
            return None
        return list(struct.unpack(f"<{count}f", payload))

    def put(self, key: str, values: Sequence[float]) -> None:
        """Stores an entry.

        Raises:
            OSError: the folder cannot be written to.
        """
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        payload = struct.pack(f"<{len(values)}f", *values)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + payload + _digest(payload))
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]


class LogprobModel:
    """A causal language model, used only for log-probabilities.

    It opens on first use, and again on first use after `close`, so two models can take turns on a device with room for
    one.

    Args:
        engine: an open engine (which stays open), or a function that opens one.
        name: identifies the weights in the cache; with an open engine, by default its model's name.
        tokenizer: the tokenizer of the ids; by default the engine's own.
        cache: stores results.
    """

    def __init__(
        self,
        engine: Engine | Callable[[], Awaitable[Engine]],
        *,
        name: str | None = None,
        tokenizer: Tokenizer | None = None,
        cache: LogprobCache | None = None,
    ) -> None:
        self._opening = engine if callable(engine) else None
        self._engine: Engine | None = None if callable(engine) else engine
        if name is None:
            if self._engine is None:
                raise PRMError("a model that is not open yet needs a name")
            name = self._engine.model_name
        self.name = name
        self._tokenizer = tokenizer
        self.cache = cache
        self._ask: Callable[[Sequence[int], int], Awaitable[list[float]]] | None = None
        self._lock = asyncio.Lock()
        self.hits = 0
        """Number of results from the cache."""

    @property
    def engine(self) -> Engine | None:
        """The engine, while it is open."""
        return self._engine

    def knows(self, ids: Sequence[int], start: int) -> bool:
        """Whether the cache has these tokens: see `logprobs`."""
        if self.cache is None or self._tokenizer is None:
            return False
        key = self.cache.key(self.name, self._tokenizer.fingerprint, ids, start)
        return self.cache.get(key, len(ids) - start) is not None

    async def open(self) -> Engine:
        """Opens the engine if it is not open.

        Raises:
            EngineError: it does not open.
        """
        async with self._lock:
            if self._engine is None:
                assert self._opening is not None
                self._engine = await self._opening()
            if self._ask is None:
                self._ask = await _asker(self._engine)
            return self._engine

    async def logprobs(self, ids: Sequence[int], start: int) -> list[float]:
        """Natural log-probabilities of the tokens from `start` (at least 1) on, each given the tokens before it.

        Raises:
            ContextOverflowError: the tokens do not fit the model's context.
            PRMError: the model's tokenizer decodes the ids to a different text.
            EngineError: the engine does not open or cannot answer.
        """
        key = ""
        if self.cache is not None:
            if self._tokenizer is None:
                self._tokenizer = (await self.open()).tokenizer
            key = self.cache.key(self.name, self._tokenizer.fingerprint, ids, start)
            if (kept := await asyncio.to_thread(self.cache.get, key, len(ids) - start)) is not None:
                self.hits += 1
                return kept
        engine = await self.open()
        self._check(engine, ids)
        assert self._ask is not None
        values = await self._ask(ids, start)
        if len(values) != len(ids) - start:
            raise PRMError(f"{self.name!r} gave {len(values)} log-probabilities for {len(ids) - start} tokens")
        if self.cache is not None:
            await asyncio.to_thread(self.cache.put, key, values)
        return values

    async def close(self) -> None:
        """Frees the model if this object opened it. Idempotent."""
        async with self._lock:
            if self._opening is not None and self._engine is not None:
                engine, self._engine, self._ask = self._engine, None, None
                await engine.close()

    def _check(self, engine: Engine, ids: Sequence[int]) -> None:
        if len(ids) >= engine.max_model_len:
            raise ContextOverflowError(
                f"a solution of {len(ids)} tokens does not fit the context of {engine.max_model_len} tokens of "
                f"{self.name!r} (one is kept free)"
            )
        own = self._tokenizer
        if own is None or own.fingerprint == engine.tokenizer.fingerprint:
            return
        if max(ids) >= engine.tokenizer.vocab_size or engine.tokenizer.decode(ids) != own.decode(ids):
            raise PRMError(
                f"{self.name!r} has another vocabulary than {own.name!r}: their log-probabilities cannot be compared. "
                "Pass the reference model that the PRM was trained against"
            )


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/genprm/logprobs`, or below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genprm" / "logprobs"


def weights_name(model: str, revision: str | None = None) -> str:
    """Identifies a model's weights: its id and revision, or its folder and the state of its files.

    Training into the same folder again changes the name.
    """
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{revision or 'main'}"
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".json"))
    states = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    return f"{folder.resolve()}#{hashlib.blake2b('|'.join(states).encode(), digest_size=8).hexdigest()}"


async def _asker(engine: Engine) -> Callable[[Sequence[int], int], Awaitable[list[float]]]:
    """Returns a function that gets log-probabilities from an engine."""
    if isinstance(engine, RunsModel):
        from genprm.prms.forward import has_plain_head, token_logprobs

        async def work(rows: list[tuple[Sequence[int], int]]) -> list[list[float]]:
            return await engine.run_model(partial(token_logprobs, rows=rows))

        if await engine.run_model(has_plain_head):
            batcher = Batcher[tuple[Sequence[int], int], list[float]](work, lambda row: len(row[0]), BATCH_TOKENS)
            return lambda ids, start: batcher.ask((ids, start))

    async def ask(ids: Sequence[int], start: int) -> list[float]:
        return (await engine.prompt_logprobs(ids))[start - 1 :]

    return ask


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST_BYTES).digest()
