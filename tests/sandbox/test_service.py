"""`genprm sandbox serve` and clients of it: who is let in, what is shared, and what a lost connection costs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from genprm.sandbox import Limits, Sandbox, SandboxError, Status, open_sandbox, remote
from genprm.sandbox import lane as lane_module
from genprm.sandbox.guest import frames
from genprm.sandbox.remote import TOKEN_VARIABLE, RemoteChannel
from genprm.sandbox.service import ServiceError, ServiceSettings
from genprm.sandbox.service import app as app_module
from genprm.sandbox.service import connection as connection_module
from genprm.sandbox.service.settings import TOKENS_VARIABLE, tokens_from_environment
from tests.conftest import missing

from .conftest import no_bubblewrap, serving, start_service

pytestmark = [pytest.mark.slow, pytest.mark.bubblewrap]
LIMITS = Limits(wall_s=2.0, memory_mb=256)
TOKENS = (("ann", "a" * 24), ("bob", "b" * 24))


@pytest.fixture(autouse=True)
def _needs_bubblewrap() -> None:
    if reason := no_bubblewrap():
        missing(reason)


@pytest.fixture(scope="module")
async def address() -> AsyncIterator[str]:
    """A service that asks for no token."""
    async with serving(lanes=2) as found:
        yield found


@contextlib.asynccontextmanager
async def asking(address: str, **options: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """A plain HTTP client of a service."""
    if address.startswith("unix:"):
        options |= {"transport": httpx.AsyncHTTPTransport(uds=address.removeprefix("unix:"))}
        address = "http://localhost"
    async with httpx.AsyncClient(base_url=address, timeout=60, **options) as client:
        yield client


async def metric(address: str, name: str, **options: Any) -> float:
    """The sum of a metric over its labels."""
    async with asking(address, **options) as client:
        lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


async def until(check: Any, seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_remote_session_has_state_and_undoes_what_fails(address: str) -> None:
    async with open_sandbox(address, limits=LIMITS) as box, box.session() as session:
        assert (box.backend, box.lanes, box.isolation) == ("remote", 2, "users")
        assert "bubblewrap" in box.note
        await session.run("x = [1]")
        assert (await session.run("x.append(2)\n1 / 0")).error == "ZeroDivisionError: division by zero"
        assert (await session.run("x.append(3)\nwhile True: pass")).status is Status.TIMEOUT
        assert (await session.run("print(x)")).stdout == "[1, 2]\n"


async def test_the_socket_is_for_its_user_alone(address: str) -> None:
    mode = os.stat(address.removeprefix("unix:")).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "every machine that reaches '0.0.0.0' could run code: set GENPRM_SANDBOX_TOKENS"),
        ({"host": "0.0.0.0", "tokens": (("ann", "short"),)}, "the token of 'ann' has fewer than 16 characters"),
        ({"tokens": (("ann", "a" * 16), ("ann", "b" * 16))}, "the same name"),
        ({"tls_cert": Path("cert.pem")}, "both files"),
        ({"tls_cert": Path("/nowhere"), "tls_key": Path("/nowhere")}, "'/nowhere' cannot be read"),
        ({"sandbox": "https://other:1"}, "not in the sandbox 'https://other:1'"),
        ({"lanes": 0}, "lanes must be at least 1, not 0"),
        ({"max_wall_s": 0.0}, "max_wall_s"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ServiceError, match=message):
        ServiceSettings(**settings).check()


def test_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKENS_VARIABLE, "ann:secret-of-ann, plain,")
    assert tokens_from_environment() == (("ann", "secret-of-ann"), ("client-2", "plain"))


@pytest.mark.parametrize("given", ["", "a" * 23, "a" * 24 + "b"])
async def test_a_wrong_token_runs_nothing(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(host="127.0.0.1", port=0, tokens=TOKENS) as url:
        monkeypatch.setenv(TOKEN_VARIABLE, given)
        expected = f"refuses the token in {TOKEN_VARIABLE}" if given else f"asks for a token: set {TOKEN_VARIABLE}"
        with pytest.raises(SandboxError, match=expected):
            await open_sandbox(url, limits=LIMITS).start()
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        async with asking(url, headers=headers) as client:
            assert (await client.post("/run_code", json={"code": "print(1)"})).status_code == 401
            assert (await client.get("/metrics")).status_code == 401
            assert (await client.get("/health")).status_code == (await client.get("/ready")).status_code == 200
        monkeypatch.setenv(TOKEN_VARIABLE, TOKENS[1][1])
        async with open_sandbox(url, limits=LIMITS) as box, box.session() as session:
            assert (await session.run("print(1)")).stdout == "1\n"
        basic = base64.b64encode(f":{TOKENS[0][1]}".encode()).decode()
        async with asking(url, headers={"Authorization": f"Basic {basic}"}) as client:
            assert (await client.post("/run_code", json={"code": "print(1)"})).status_code == 200


async def test_a_page_in_a_browser_runs_nothing() -> None:
    async with serving(host="127.0.0.1", port=0) as url, asking(url, headers={"Origin": "http://evil"}) as client:
        answer = await client.post("/run_code", content='{"code": "print(1)"}')
        assert (answer.status_code, answer.text) == (
            403,
            "a service without tokens does not answer pages in a browser\n",
        )
        async with aiohttp.ClientSession() as browser:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await browser.ws_connect(f"{url}/v1/sandbox", origin="http://evil")
            assert refused.value.status == 403
            async with browser.ws_connect(f"{url}/v1/sandbox"):
                pass


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sandbox")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


async def test_tls_is_checked_against_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path)
    async with serving(host="127.0.0.1", port=0, tls_cert=cert, tls_key=key) as url:
        assert url.startswith("https://")
        with pytest.raises(SandboxError, match="certificate verify failed"):
            await open_sandbox(url, limits=LIMITS).start()
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        async with open_sandbox(url, limits=LIMITS) as box, box.session() as session:
            assert (await session.run("print(2)")).stdout == "2\n"


async def test_limits_above_the_service_s_are_refused_with_the_option_that_allows_them(address: str) -> None:
    with pytest.raises(SandboxError, match=r"at most 120 s \(--max-wall-s\), not 300"):
        await open_sandbox(address, limits=Limits(wall_s=300, cpu_s=1)).start()
    with pytest.raises(SandboxError, match=r"at most 4096 MiB \(--max-memory-mb\), not 8192"):
        await open_sandbox(address, limits=Limits(memory_mb=8192)).start()


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (b"\0\0\0\x02[]", "does not follow the protocol"),
        (b"junk", "does not follow the protocol"),
        (frames.encode({"op": "run", "id": 1, "session": 1, "code": "", "resumes": False}), "begins with 'open'"),
        (frames.encode({"op": "open", "id": 0, "version": 2, "limits": {}}), "speaks version 1 of the protocol"),
        (frames.encode({"op": "open", "id": 0, "version": 1, "limits": 3}), "names no limits"),
        (frames.encode({"op": "open", "id": 0, "version": 1, "limits": {"wall_s": -1}}), "wall_s"),
    ],
)
async def test_what_is_no_opening_is_refused_and_hurts_nobody(address: str, first: bytes, said: str) -> None:
    from websockets.asyncio.client import unix_connect

    async with unix_connect(address.removeprefix("unix:"), uri="ws://localhost/v1/sandbox") as connection:
        await connection.send(first)
        assert said in str(remote.parse_message(await connection.recv())["refused"])
    async with open_sandbox(address, limits=LIMITS) as box, box.session() as session:
        assert (await session.run("print(1)")).ok


@pytest.mark.parametrize(
    "request_",
    [{"op": "run", "id": 1}, {"op": "explode", "id": 1}, {"id": 1}, {"op": "run", "id": -1, "session": 1, "code": 3}],
)
async def test_what_is_no_request_ends_that_connection_alone(address: str, request_: dict[str, object]) -> None:
    async with open_sandbox(address, limits=LIMITS, lanes=1) as honest, honest.session() as session:
        assert (await session.run("x = 1")).ok
        channel = await RemoteChannel.open(remote.addresses(address)[0], LIMITS)
        await channel.read(len(frames.encode({})) - 2)
        await channel.write(frames.encode(request_))
        await until(lambda: _ended(channel))
        await channel.close()
        assert (await session.run("print(x)")).stdout == "1\n"


async def _ended(channel: RemoteChannel) -> bool:
    return channel.ended


async def test_something_else_at_the_address_is_named() -> None:
    import uvicorn
    from starlette.applications import Starlette

    server = uvicorn.Server(uvicorn.Config(Starlette(), port=0, log_config=None, ws="websockets-sansio"))
    task = asyncio.create_task(server.serve())
    await until(lambda: _started(server))
    port = server.servers[0].sockets[0].getsockname()[1]
    with pytest.raises(SandboxError, match="is not a sandbox service"):
        await open_sandbox(f"http://127.0.0.1:{port}").start()
    server.should_exit = True
    await task
    with pytest.raises(SandboxError, match=f"no sandbox service answers at http://127.0.0.1:{port}"):
        await open_sandbox(f"http://127.0.0.1:{port}").start()


async def _started(server: Any) -> bool:
    return server.started


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host:1", "'ftp://host:1' is not the address"),
        ("https://host:1/path", "is not the address"),
        ("unix:relative", "absolute path"),
        ("https://user:secret@host:1", f"set {TOKEN_VARIABLE}"),
        ("http://a:1,,http://b:1", "'' is not the address"),
    ],
)
def test_addresses_are_checked(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_sandbox(text)
    assert "secret" not in message


async def test_a_client_that_vanishes_frees_its_sessions(address: str) -> None:
    before = await metric(address, "genprm_sandbox_sessions")
    script = (
        "import asyncio, sys\nfrom genprm.sandbox import Limits, open_sandbox\n"
        "async def main():\n"
        "    async with open_sandbox(sys.argv[1], limits=Limits(wall_s=2.0, memory_mb=256), lanes=2) as box:\n"
        "        sessions = [box.session() for _ in range(5)]\n"
        "        for one in sessions: await one.run('x = 1')\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(100)\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", script, address]
    client = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220
    with client:
        assert client.stdout is not None
        assert await asyncio.to_thread(client.stdout.readline) == b"ready\n"
        assert await metric(address, "genprm_sandbox_sessions") == before + 5
        client.kill()

    async def freed() -> bool:
        return await metric(address, "genprm_sandbox_sessions") == before

    await until(freed)
    async with open_sandbox(address, limits=LIMITS, lanes=1) as box:
        (lane,) = await box.stats()
        assert (lane["sessions"], lane["strays"], lane["awake"]) == (0, 0, 0)


async def test_sessions_of_a_client_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(client_sessions=2) as address, open_sandbox(address, limits=LIMITS) as box:
        first, second, third = box.session(), box.session(), box.session()
        assert (await first.run("x = 1")).ok
        assert (await second.run("x = 2")).ok
        with pytest.raises(SandboxError, match=r"has 2 open sessions, the most allowed \(--client-sessions\)"):
            await third.run("x = 3")
        await first.close()
        assert (await third.run("print(3)")).ok
        assert (await second.run("print(x)")).stdout == "2\n"


async def test_a_client_that_waits_is_told_so_and_another_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client's snippets fill its own slots; another's do not wait behind them."""
    monkeypatch.setattr(connection_module, "WAITING_S", 0.2)
    run = {"op": "run", "id": 1, "session": 1, "resumes": False}
    async with serving(lanes=2, client_lanes=1, tokens=TOKENS, host="127.0.0.1", port=0) as url:
        lanes: list[RemoteChannel] = []
        for _, token in (TOKENS[0], TOKENS[0], TOKENS[1]):
            monkeypatch.setenv(TOKEN_VARIABLE, token)
            lanes.append(await RemoteChannel.open(remote.addresses(url)[0], LIMITS))
            assert (await reply(lanes[-1]))["lanes"] == 1
        greedy, waiting, other = lanes
        await greedy.write(frames.encode({**run, "code": "while True: pass"}))
        await asyncio.sleep(0.1)
        await waiting.write(frames.encode({**run, "code": "print(1)"}))
        await other.write(frames.encode({**run, "code": "print(2)"}))
        assert await reply(waiting) == {"waiting": True}
        while (answer := await reply(other)) == {"waiting": True}:
            pass
        assert answer["stdout"] == "2\n"
        while (answer := await reply(greedy)) == {"waiting": True}:
            pass
        assert answer["status"] == "timeout"
        while (answer := await reply(waiting)) == {"waiting": True}:
            pass
        assert answer["stdout"] == "1\n"
        await asyncio.gather(*(one.close() for one in lanes))


async def reply(channel: RemoteChannel) -> dict[str, object]:
    header = await channel.read(frames.HEADER.size)
    return frames.decode(await channel.read(frames.length(header, 1 << 20)))


async def test_a_lane_waits_as_long_as_it_is_told_to_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "_GRACE_S", -1.0)  # of two seconds; the words come every tenth of one

    class Scripted:
        ended = False

        def __init__(self, words: int, end: bytes) -> None:
            self.left, self.end, self.pending = words, end, bytearray()

        async def read(self, size: int) -> bytes:
            if not self.pending:
                self.left -= 1
                await asyncio.sleep(0.1 if self.left >= 0 or self.end else 100)
                self.pending += frames.encode({"waiting": True}) if self.left >= 0 else self.end
            wanted = bytes(self.pending[:size])
            del self.pending[:size]
            return wanted

        async def write(self, data: bytes) -> None: ...
        async def close(self) -> None: ...
        def complaint(self) -> str:
            return ""

    result = {"id": 1, "status": "ok", "stdout": "x", "error": None, "duration_s": 0.1, "truncated": 0, "leaving": True}
    hello = lane_module.Hello("users", 0, "3.11")
    patient = lane_module.Lane(Scripted(15, frames.encode(result)), hello, LIMITS)
    answer = await patient.run(1, "x", resumes=False)
    assert answer is not None
    assert answer.ok
    assert patient.leaving
    with pytest.raises(lane_module.LaneBroken, match="it hangs"):
        await lane_module.Lane(Scripted(3, b""), hello, LIMITS).run(1, "x", resumes=False)


async def test_a_service_that_drains_finishes_sessions_and_takes_no_new_ones() -> None:
    async with serving(drain_s=20.0) as other, contextlib.AsyncExitStack() as stack:
        first = serving(drain_s=20.0)
        address = await first.__aenter__()
        box = await stack.enter_async_context(open_sandbox(f"{address},{other}", limits=LIMITS, lanes=1))
        lane = box._lanes[0]  # pyright: ignore[reportPrivateUsage]
        draining = address if lane._channel.address.text == address else other  # type: ignore[attr-defined]  # pyright: ignore
        session = box.session()
        await session.run("x = 1")
        service = next(one for one in SERVICES if one.settings.socket and draining.endswith(str(one.settings.socket)))
        drain = asyncio.create_task(service.drain())
        await asyncio.sleep(0.1)
        async with asking(draining) as client:
            assert (await client.get("/ready")).status_code == 503
            assert (await client.get("/health")).status_code == 200
            assert (await client.post("/run_code", json={"code": "1"})).status_code == 503
        assert (await session.run("print(x)")).stdout == "1\n"
        assert not drain.done()
        async with box.session() as fresh:
            assert (await fresh.run("print(2)")).stdout == "2\n"
            assert box._lanes[-1]._channel.address.text != draining  # type: ignore[attr-defined]  # pyright: ignore
        await session.close()
        await drain
        await box.close()
        await first.__aexit__(None, None, None)


SERVICES: list[Any] = []


@pytest.fixture(autouse=True)
def _note_services(monkeypatch: pytest.MonkeyPatch) -> None:
    from genprm.sandbox.service import run as run_module

    class Noted(run_module.Service):
        def __init__(self, settings: ServiceSettings) -> None:
            super().__init__(settings)
            SERVICES.append(self)

    monkeypatch.setattr(run_module, "Service", Noted)
    SERVICES.clear()


async def test_a_server_that_dies_costs_a_retry_and_no_state(tmp_path: Path) -> None:
    paths = [tmp_path / "a.sock", tmp_path / "b.sock"]
    services = await asyncio.gather(*(asyncio.to_thread(start_service, path) for path in paths))
    try:
        async with open_sandbox(",".join(f"unix:{path}" for path in paths), limits=LIMITS) as box:
            assert box.lanes == 2
            await box.grow()
            used = {lane._channel.address.path for lane in box._lanes}  # type: ignore[attr-defined]  # pyright: ignore
            assert used == set(map(str, paths)), "the second lane goes to the service with less load"
            sessions = [box.session() for _ in range(4)]
            await asyncio.gather(*(one.run(f"x = {number}") for number, one in enumerate(sessions)))
            running = [asyncio.create_task(one.run("import time; time.sleep(0.3)\nprint(x)")) for one in sessions]
            await asyncio.sleep(0.2)
            services[0].kill()
            assert [one.stdout for one in await asyncio.gather(*running)] == ["0\n", "1\n", "2\n", "3\n"]
        services[1].send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(services[1].wait, 60) == 0
        assert not paths[1].exists()
    finally:
        for service in services:
            service.kill()
            service.wait()
            assert service.stderr is not None
            service.stderr.close()


async def test_without_any_service_left_it_is_an_error_and_not_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_BACK_S", 0.5)
    serve_ = serving(drain_s=0.0)
    address = await serve_.__aenter__()
    async with open_sandbox(address, limits=LIMITS) as box, box.session() as session:
        assert (await session.run("x = 1")).ok
        await serve_.__aexit__(None, None, None)
        with pytest.raises(SandboxError, match="no sandbox service answers"):
            await session.run("print(x)")


async def test_a_guest_lost_at_the_service_is_seen_by_the_client(address: str) -> None:
    async with open_sandbox(address, limits=LIMITS, lanes=1) as box:
        assert (await box.stats())[0]["guests"] >= 1


async def test_the_connection_says_when_the_service_s_own_sandbox_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as address, open_sandbox(address, limits=LIMITS) as box, box.session() as session:
        assert (await session.run("x = 1")).ok
        broken = iter([True])
        honest = app_module.Connection._run  # pyright: ignore[reportPrivateUsage]

        async def run(self: Any, request: dict[str, object]) -> dict[str, object]:
            if next(broken, False):
                return {"broken": "the sandbox broke twice: \ud800"}
            return await honest(self, request)

        monkeypatch.setattr(app_module.Connection, "_run", run)
        assert (await session.run("print(x)")).stdout == "1\n", "tried again, with its state"


# What verl 0.9's client sends (verl/utils/reward_score/sandbox_fusion/utils.py), and what it reads of the answer.
VERL = {"compile_timeout": 10, "run_timeout": 2, "stdin": None, "memory_limit_MB": 1024, "language": "python",
        "files": {}, "fetch_files": []}  # fmt: skip


async def fused(address: str, **fields: object) -> dict[str, Any]:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    import json

    async with asking(address) as client:
        answer = await client.post("/run_code", headers=headers, content=json.dumps({**VERL, **fields}))
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize(
    ("code", "stdin", "status", "finish", "exit_code", "stdout", "stderr"),
    [
        ("print(int(input()) + int(input()))", "1\n2\n", "Success", "Finished", 0, "3\n", ""),
        ("import sys\nprint(sys.stdin.read().upper())", "ab", "Success", "Finished", 0, "AB\n", ""),
        ("print(*map(int, open(0)))", "1\n2\n", "Success", "Finished", 0, "1 2\n", ""),
        ("import sys\nprint(sys.stdin.buffer.readline())", "é\n", "Success", "Finished", 0, "b'\\xc3\\xa9\\n'\n", ""),
        ("print(input())", None, "Failed", "Finished", 1, "", "EOFError: EOF when reading a line"),
        ("print(1)\n1 / 0", "", "Failed", "Finished", 1, "1\n", "ZeroDivisionError: division by zero"),
        ("if", "", "Failed", "Finished", 1, "", "SyntaxError: invalid syntax (main.py, line 1)"),
        ("import sys; print(1); sys.exit(0)", "", "Success", "Finished", 0, "1\n", ""),
        ("import sys; sys.exit(3)", "", "Failed", "Finished", 3, "", ""),
        ("import sys; sys.exit()", "", "Success", "Finished", 0, "", ""),
        ("import os; os._exit(4)", "", "Failed", "Finished", 4, "", ""),
        ("import sys; sys.exit('no')", "", "Failed", "Finished", 1, "", "sys.exit('no')"),
        ("import os; os.kill(os.getpid(), 9)", "", "Failed", "Finished", -9, "", "died of SIGKILL"),
        ("while True: pass", "", "Failed", "TimeLimitExceeded", None, "", "wall limit of 2 s reached"),
        ("print(__name__)\ndef f(): return f\nprint(f() is f)", "", "Success", "Finished", 0, "__main__\nTrue\n", ""),
        ("print('\\ud800')", "", "Success", "Finished", 0, "\\ud800\n", ""),
    ],
)  # fmt: skip
async def test_run_code_answers_as_sandbox_fusion(
    address: str,
    code: str,
    stdin: str | None,
    status: str,
    finish: str,
    exit_code: int | None,
    stdout: str,
    stderr: str,
) -> None:
    answer = await fused(address, code=code, stdin=stdin)
    run = answer["run_result"]
    assert (answer["status"], answer["compile_result"]) == (status, None)
    assert (run["status"], run["return_code"], run["stdout"], run["stderr"]) == (finish, exit_code, stdout, stderr)
    assert run["execution_time"] >= 0


async def test_run_code_allows_memory_up_to_the_maximum() -> None:
    async with serving(max_memory_mb=700) as url:
        for asked in (-1, 600, 700):
            assert (await fused(url, code="print(1)", memory_limit_MB=asked))["run_result"]["stdout"] == "1\n"
        assert "at most 700 MiB" in (await fused(url, code="print(1)", memory_limit_MB=701))["message"]


async def test_run_code_takes_long_input_and_files(address: str) -> None:
    long = "x" * 3_000_000 + "\nlast"
    answer = await fused(address, code="print(len(input()), input())", stdin=long)
    assert answer["run_result"]["stdout"] == "3000000 last\n"
    data = base64.b64encode(bytes(range(256))).decode()
    answer = await fused(address, code="print(open('a/b.bin', 'rb').read()[255], open('c').read())",
                         files={"a/b.bin": data, "c": base64.b64encode(b"text").decode()})  # fmt: skip
    assert answer["run_result"]["stdout"] == "255 text\n"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"code": "x", "language": "cpp"}, "language 'cpp': this sandbox runs only 'python'"),
        ({"code": "x", "fetch_files": ["a"]}, "fetch_files"),
        ({"code": "x", "files": {"../a": ""}}, "'../a' is not a path below"),
        ({"code": "x", "run_timeout": 999}, "run_timeout is 999 s"),
        ({"code": "x", "memory_limit_MB": 1 << 20}, "--max-memory-mb"),
        ({"code": 3}, "code: "),
        ({"code": "\ud800"}, "body: Invalid JSON"),
        ({"code": "x", "stdin": "x" * (9 << 20)}, "files and stdin 8388608 bytes"),
    ],
)
async def test_run_code_says_what_it_cannot_do(address: str, fields: dict[str, object], message: str) -> None:
    answer = await fused(address, **fields)
    assert answer["status"] == "SandboxError"
    assert message in answer["message"]
    assert answer["run_result"] is None


async def test_programs_of_run_code_share_nothing(address: str) -> None:
    await fused(
        address, code="import builtins, os\nbuiltins.print = None\nopen('left', 'w').write('x')\nopen('.stdin', 'w')"
    )
    answer = await fused(address, code="import os\nprint(os.listdir('.'))")
    assert answer["run_result"]["stdout"] == "[]\n"


async def test_time_limits_in_between_do_not_open_a_sandbox_each(address: str) -> None:
    before = await metric(address, "genprm_sandbox_guests_started")
    for run_timeout in (1.2, 1.4, 1.6):
        answer = await fused(address, code="import time; time.sleep(1.7)", run_timeout=run_timeout)
        assert answer["run_result"]["status"] == "TimeLimitExceeded"
    assert await metric(address, "genprm_sandbox_guests_started") <= before + 1


async def test_many_lanes_of_many_clients_share_the_guests(address: str) -> None:
    boxes: list[Sandbox] = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            boxes.append(await stack.enter_async_context(open_sandbox(address, limits=LIMITS, lanes=2)))

        async def chain(box: Sandbox, number: int) -> str:
            async with box.session() as session:
                await session.run(f"x = {number}")
                return (await session.run("print(x * x)")).stdout

        results = await asyncio.gather(*(chain(boxes[number % 4], number) for number in range(32)))
        assert results == [f"{number * number}\n" for number in range(32)]
        assert (await boxes[0].stats())[0]["guests"] <= 2
