"""An engine on servers with the OpenAI completions API: `vllm serve`, SGLang and others that take token ids."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import aiohttp

from genprm.config import PATIENCE_S
from genprm.engines.base import Completion, Sampling
from genprm.engines.errors import ContextOverflowError, EngineError
from genprm.engines.http import HttpServer, NoAnswerError, StatusError, open_session
from genprm.engines.requests import Connection, InFlight, check_choices, check_ids, fit_sampling
from genprm.engines.routing import Router, Server
from genprm.engines.stops import REPEATED_LEAST, REPEATED_MOST, REPEATED_TIMES, completion
from genprm.engines.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{.*\}", re.MULTILINE)
_CACHE_SIZE = re.compile(r'\b(block_size|num_gpu_blocks)="(\d+)"')
_OVERFLOW = re.compile(
    r"context.?length|maximum model length|max_model_len|longer than the (model|maximum)", re.IGNORECASE
)
_LONGEST_PAUSE_S = 15.0
_REPETITION = {
    "max_pattern_size": REPEATED_MOST,
    "min_pattern_size": REPEATED_LEAST,
    "min_count": REPEATED_TIMES,
}
_TOP_LOGPROBS = 20
"""vLLM's maximum unless it was started with a larger --max-logprobs."""

_PLAIN = {
    # A server may take defaults from the model's generation_config.json, so every field is set.
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "add_special_tokens": False,
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
}
"""Fields beyond OpenAI's API, known to vLLM; other servers may ignore them."""


class OpenAIEngine:
    """One or several servers of the same model behind the `Engine` protocol. Open it with `open`.

    A chain stays on the server that holds its prefix; new ones go to the server with the fewest requests. A failing
    server is avoided for a while, and its requests go to the others; if none is left, they are retried up to a limit.

    Args:
        servers: all of them.
        session: what the servers are asked through; closed with the engine.
        tokenizer: the model's tokenizer.
        model_name: the name under which every server knows the model.
        max_model_len: tokens of prompt and completion together.
        max_num_seqs: sequences that each server decodes at once.
        patience_s: seconds, at least 0, for which a request is retried after its first failure.
        seed: seed of requests without one.
    """

    kind = "openai"

    def __init__(
        self,
        servers: Sequence[HttpServer],
        session: aiohttp.ClientSession,
        tokenizer: Tokenizer,
        *,
        model_name: str,
        max_model_len: int,
        max_num_seqs: int = 256,
        cache_tokens: int | None = None,
        patience_s: float = PATIENCE_S,
        seed: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.model_name = model_name
        self.max_model_len = max_model_len
        self.capacity = max_num_seqs * len(servers)
        self.cache_tokens = None if cache_tokens is None else cache_tokens * len(servers)
        self._patience_s = patience_s
        self._rng = random.Random(seed)
        self._session = session
        self._servers = {Server(server.base_url): server for server in servers}
        self.router = Router(list(self._servers))
        """Chooses the server of each request."""
        self._in_flight = InFlight()
        self._watches = True
        """Whether the servers may support `logprob_token_ids` in a generation."""

    @classmethod
    async def open(
        cls,
        base_urls: Sequence[str],
        *,
        model: str | None = None,
        tokenizer: str | None = None,
        revision: str | None = None,
        seed: int = 0,
        max_model_len: int | None = None,
        max_num_seqs: int = 256,
        **connection: Unpack[Connection],
    ) -> OpenAIEngine:
        """Connects to servers and queries their models.

        Args:
            base_urls: such as `http://127.0.0.1:8000/v1`; all must serve the same model.
            model: its name or path there; by default the only one served.
            tokenizer: folder or model id of the tokenizer; by default the model named by the server.
            revision: revision of the tokenizer on the Hub.
            seed: seed of requests without one.
            max_model_len: by default as reported by the servers.
            max_num_seqs: sequences that each server decodes at once (`--max-num-seqs` of vLLM).
            **connection: see `Connection`.

        Raises:
            EngineError: no server answers, they do not serve the model, or the tokenizer does not load.
        """
        if not base_urls:
            raise EngineError("the openai engine needs at least one base URL, such as http://127.0.0.1:8000/v1")
        if len(set(base_urls)) < len(base_urls):
            raise EngineError(f"base URLs are repeated: {list(base_urls)!r}")
        session = open_session(connection)
        try:
            servers = [HttpServer(url, session, connection.get("retries", 2)) for url in base_urls]
            found = await asyncio.gather(*(_discover(server, model) for server in servers), return_exceptions=True)
            served = [answer for answer in found if isinstance(answer, _Served)]
            for url, problem in zip(base_urls, found, strict=True):
                if isinstance(problem, StatusError | EngineError):
                    raise EngineError(f"{url}: {problem}") from problem
                if isinstance(problem, NoAnswerError):
                    if not served:
                        raise EngineError(f"no server answers at {url!r}: is it running?") from problem
                    logger.warning("no server answers at %s: continuing with the others", url)
                elif isinstance(problem, BaseException):
                    raise problem
            if len(names := {answer.name for answer in served}) > 1:
                raise EngineError(f"the servers have different names for their models: {sorted(names)!r}")
            lengths = [answer.max_model_len for answer in served if answer.max_model_len]
            if max_model_len is None and not lengths:
                raise EngineError(f"{base_urls[0]} does not say how long the model's context is: set max_model_len")
            name = served[0].name
            source = tokenizer or served[0].root or name
            try:
                text = await asyncio.to_thread(Tokenizer.from_pretrained, source, revision)
            except EngineError as error:
                raise EngineError(f"{error} (set the tokenizer: a folder, or the model's id on the Hub)") from error
        except BaseException:
            await session.close()
            raise
        engine = cls(
            servers,
            session,
            text,
            model_name=name,
            max_model_len=min(lengths) if max_model_len is None else max_model_len,
            max_num_seqs=max_num_seqs,
            cache_tokens=min((answer.cache_tokens for answer in served if answer.cache_tokens), default=None),
            patience_s=connection.get("patience_s", PATIENCE_S),
            seed=seed,
        )
        for server, answer in zip(engine.router.servers, found, strict=True):
            if not isinstance(answer, _Served):
                engine.router.put_aside(server)
        return engine

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, chain: str | None = None) -> Completion:
        """Continues a prompt: see `Engine`."""
        sampling = fit_sampling(prompt_ids, sampling, self.tokenizer.vocab_size, self.max_model_len)
        watches = self._watches and bool(sampling.watch)
        answer = await self._request(
            chain,
            prompt_ids,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            seed=self._rng.getrandbits(31) if sampling.seed is None else sampling.seed,
            # An empty list is refused by some servers.
            stop=list(sampling.stop) or None,
            stop_token_ids=sorted(self.tokenizer.eos_ids),
            include_stop_str_in_output=True,
            # vLLM's; other servers pass over it.
            repetition_detection=_REPETITION,
            **({"logprobs": 0, "logprob_token_ids": sorted(set(sampling.watch))} if watches else {}),
        )
        choice = answer["choices"][0]
        watched = _watched(choice, sampling.watch) if watches else []
        # A server without this field is not asked again: its log-probabilities would be useless.
        self._watches = self._watches and (not watches or bool(watched))
        ids: list[int] | None = choice.get("token_ids")
        # Stop reason: a stop string, a token id, or (with vLLM) None for the end-of-sequence token.
        met: str | int | None = choice.get("stop_reason", choice.get("matched_stop"))
        ended = choice.get("finish_reason") == "stop" and not isinstance(met, str)
        if ids is None:
            watched = []
            # The server returns no ids: tokenise its text, with the stop string that it may have cut off.
            text: str = choice["text"]
            cut_off = isinstance(met, str) and met in sampling.stop and not text.endswith(met)
            ids = self.tokenizer.encode(text + str(met) if cut_off else text)
            ended = ended and not any(string in text for string in sampling.stop)
            ids += [self.tokenizer.eos_id or 0] if ended else []
        details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
        return completion(
            self.tokenizer,
            ids,
            sampling.stop,
            ended=ended,
            cached_tokens=details.get("cached_tokens") or 0,
            watched=watched,
        )

    async def choice_logprobs(
        self, prompt_ids: Sequence[int], choices: Sequence[int], *, chain: str | None = None
    ) -> list[float]:
        """Scores next tokens: see `Engine`.

        Raises:
            EngineError: also when the server does not support `logprob_token_ids` and a choice is not among the top
            tokens.
        """
        check_ids(prompt_ids, self.tokenizer.vocab_size, self.max_model_len)
        check_choices(choices, self.tokenizer.vocab_size)
        exact = {"logprobs": 0, "logprob_token_ids": sorted(set(choices))}
        scores: list[float | None] = []
        for fields in (exact, {"logprobs": _TOP_LOGPROBS}):
            answer = await self._request(chain, prompt_ids, max_tokens=1, temperature=1.0, top_p=1.0, **fields)
            top: dict[str, float] = answer["choices"][0]["logprobs"]["top_logprobs"][0]
            # Servers without ids return the token's text, which is ambiguous only for parts of a character.
            names = ((f"token_id:{choice}", self.tokenizer.decode([choice])) for choice in choices)
            scores = [top.get(by_id, None if "\ufffd" in text else top.get(text)) for by_id, text in names]
            if None not in scores:
                break
        if missing := [choice for choice, score in zip(choices, scores, strict=True) if score is None]:
            raise EngineError(
                f"the server gives no probability of {self.tokenizer.decode(missing[:1])!r} (token {missing[0]}): it "
                f"does not know logprob_token_ids, and the token is not among the {_TOP_LOGPROBS} likeliest. "
                "Use vLLM 0.32 or newer as the server, or the vllm engine"
            )
        return [float(score) for score in scores if score is not None]

    async def prompt_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Scores the tokens of a prompt: see `Engine`."""
        check_ids(ids, self.tokenizer.vocab_size, self.max_model_len)
        answer = await self._request(None, ids, max_tokens=1, temperature=1.0, top_p=1.0, prompt_logprobs=0)
        rows: list[dict[str, dict[str, float]] | None] | None = answer["choices"][0].get("prompt_logprobs")
        if rows is not None:
            return [float((row or {})[str(token)]["logprob"]) for token, row in zip(ids[1:], rows[1:], strict=True)]
        answer = await self._request(None, ids, max_tokens=1, temperature=1.0, top_p=1.0, echo=True, logprobs=1)
        echoed: list[float | None] = answer["choices"][0]["logprobs"]["token_logprobs"][1 : len(ids)]
        if len(echoed) != len(ids) - 1 or None in echoed:
            raise EngineError("the server does not score prompts: use a vLLM server, or the vllm engine")
        return [score for score in echoed if score is not None]

    async def pool(self, ids: Sequence[int], *, step_tag: int | None = None) -> list[list[float]]:
        """Scores tokens with a vLLM server's classification head: see `genprm.engines.base.PoolingEngine`."""
        if not ids:
            raise EngineError("the prompt is empty: it needs at least one token")
        body = {"model": self.model_name, "input": list(ids), "task": "token_classify", "use_activation": False}
        # This route is outside the OpenAI API's prefix.
        answer = await self._in_flight.run(self._anywhere(None, "../pooling", body))
        return [[float(value) for value in row] for row in answer["data"][0]["data"]]

    async def close(self) -> None:
        """Closes the connections: see `Engine`. The servers keep running."""
        if not self._in_flight.closed:
            await self._in_flight.close()
            await self._session.close()

    async def _request(self, chain: str | None, prompt_ids: Sequence[int], **fields: Any) -> Any:
        """Sends one request to whichever server answers it; returns the decoded JSON."""
        body = {"model": self.model_name, "prompt": list(prompt_ids), **_PLAIN, **fields}
        return await self._in_flight.run(self._anywhere(chain, "completions", body))

    async def _anywhere(self, chain: str | None, path: str, body: Mapping[str, object]) -> Any:
        """Returns the answer of the first server that answers.

        Raises:
            EngineError: no server answers within the patience, or one refuses the request.
        """
        clock = asyncio.get_running_loop().time
        failures: dict[Server, Exception] = {}
        # Patience starts at the first failure, so that a long request that fails is retried too.
        deadline: float | None = None
        pause_s = 1.0
        while True:
            tried: list[Server] = []
            while (server := self.router.pick(chain, tried)) is not None:
                tried.append(server)
                server.in_flight += 1
                try:
                    answer = await self._servers[server].post(path, body)
                    self.router.restore(server)
                    return answer
                except NoAnswerError as error:
                    self._put_aside(server, error)
                    failures[server] = error
                except StatusError as error:
                    if error.status == 429:  # busy, not broken
                        self.router.restore(server)
                    elif error.status >= 500:
                        self._put_aside(server, error)
                    elif _OVERFLOW.search(error.message):
                        raise ContextOverflowError(error.message) from error
                    else:
                        raise EngineError(f"{server.base_url} refuses a request: {error}") from error
                    failures[server] = error
                finally:
                    server.in_flight -= 1
            wait_s = pause_s * self._rng.uniform(0.75, 1.25)
            deadline = clock() + self._patience_s if deadline is None else deadline
            if clock() + wait_s > deadline:
                in_order = ((server.base_url, failures[server]) for server in self.router.servers if server in failures)
                said = "; ".join(f"{url} ({_in_short(error)})" for url, error in in_order)
                raise EngineError(f"no server answered for {self._patience_s:g} s: {said}") from failures.popitem()[1]
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _put_aside(self, server: Server, error: Exception) -> None:
        # Once per outage: all requests in flight there fail with it.
        level = logging.DEBUG if server.failed else logging.WARNING
        again = f"its requests are retried for up to {self._patience_s:g} s"
        logger.log(level, "%s failed: %s; %s", server.base_url, _in_short(error), again)
        self.router.put_aside(server)


def _watched(choice: Any, watch: Sequence[int]) -> list[tuple[float, ...]]:
    """The log-probabilities of watched tokens at each position for which the server returned them."""
    watched: list[tuple[float, ...]] = []
    for top in (choice.get("logprobs") or {}).get("top_logprobs") or []:
        row = [top.get(f"token_id:{token}") for token in watch]
        if None in row:
            break
        watched.append(tuple(float(value) for value in row))
    return watched


class _Served:
    """A server's description of its model."""

    def __init__(self, card: Mapping[str, Any]) -> None:
        self.cache_tokens: int | None = None
        self.name: str = card["id"]
        self.root: str | None = card.get("root")
        self.max_model_len: int | None = card.get("max_model_len")


def _in_short(error: Exception) -> str:
    """One line: a proxy may send a page."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:199]}…"


async def _discover(server: HttpServer, model: str | None) -> _Served:
    listed = await server.get("models")
    try:
        served = [_Served(card) for card in listed["data"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"its /models does not list models: {_in_short(ValueError(listed))}") from error
    fitting = [s for s in served if model in (None, s.name, s.root)]
    # LoRA adapters are listed too: without a name, the choice is clear only if there is one model.
    if not fitting or (model is None and len(fitting) > 1):
        wanted = "give the model's name: there are" if model is None else f"the model {model!r} is not served here, but"
        raise EngineError(f"{wanted} {sorted(s.name for s in served)!r}")
    fitting[0].cache_tokens = await _cache_tokens(server)
    return fitting[0]


async def _cache_tokens(server: HttpServer) -> int | None:
    """Size of the server's KV cache in tokens, from vLLM's metrics; None for other servers."""
    try:
        page = await server.page("../metrics", timeout_s=10.0)
    except (NoAnswerError, StatusError):
        return None
    found = _CACHE_CONFIG.search(page)
    sizes = {name: int(number) for name, number in _CACHE_SIZE.findall(found[0])} if found else {}
    return sizes["block_size"] * sizes["num_gpu_blocks"] if len(sizes) == 2 else None
