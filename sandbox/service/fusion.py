"""`POST /run_code` in SandboxFusion's format, for trainers that use it.

    {"code", "language": "python", "compile_timeout", "run_timeout", "memory_limit_MB", "stdin", "files", "fetch_files"}
    -> {"status": "Success" | "Failed" | "SandboxError", "message", "compile_result": null, "run_result":
        {"status": "Finished" | "Error" | "TimeLimitExceeded", "execution_time", "return_code", "stdout", "stderr"}}

Python only, and a session for each request. What a program prints to standard error is not kept: `stderr` names how
it ended, as `Type: message`. No file is fetched.
"""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..guest.frames import MAX_CODE, encodable
from ..limits import Limits
from ..results import Result, SandboxError, Status
from .pools import Client

if TYPE_CHECKING:
    from .service import Service

_WALL_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
"""Time limits of sandboxes. A request's limit is rounded up to one of them and checked again afterwards."""
_MEMORY_MB = 1024
_PIECE = 256 << 10
"""Bytes of a file per snippet; escapes may make them four times as long."""
_MOST_INPUT = 8 << 20
"""Largest file in a session's folder."""
_EXIT_CODE = re.compile(r"^(?:sys\.exit\(|the process ended by itself with code )(-?\d+|None)\)?$")

_PROGRAM = """
import base64, os, sys
for _name, _parts in _files.items():
    if os.path.dirname(_name): os.makedirs(os.path.dirname(_name), exist_ok=True)
    with open(_name, "wb") as _file: _file.write(b"".join(_parts))
with open(".stdin", "wb") as _file: _file.write(b"".join(_input))
_descriptor = os.open(".stdin", os.O_RDONLY)
os.unlink(".stdin")
os.dup2(_descriptor, 0)
os.close(_descriptor)
sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
del _files, _input, _file, _descriptor
exec(compile({code}, "main.py", "exec", dont_inherit=True), {{"__name__": "__main__", "__builtins__": __builtins__}})
"""


class Request(BaseModel):
    """A request of SandboxFusion's clients. Keys without a meaning here are ignored."""

    model_config = ConfigDict(extra="ignore")

    code: str
    language: str = "python"
    compile_timeout: float = 10.0
    run_timeout: float = Field(default=10.0, gt=0)
    memory_limit_MB: int = -1
    stdin: str | None = None
    files: dict[str, str | None] = Field(default_factory=dict)
    fetch_files: list[str] = Field(default_factory=list)


async def run_code(service: Service, client: Client, body: bytes) -> dict[str, object]:
    """Runs one program. Every failure is reported in the answer, as SandboxFusion does."""
    try:
        request = Request.model_validate_json(body)
        snippets = _snippets(request)
        limits = _limits(service, request)
        async with service.pools.use(limits) as box, box.session() as session:
            for snippet in snippets[:-1]:
                prepared = await service.run(client, session, snippet)
                if not prepared.ok:
                    raise SandboxError(f"the files cannot be written: {prepared.status.value}: {prepared.error}")
            result = await service.run(client, session, snippets[-1])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return _broken(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}")
    except (SandboxError, ValueError) as error:
        return _broken(str(error))
    return _answer(request, result)


def _limits(service: Service, request: Request) -> Limits:
    """The limits for a request. Raises ValueError."""
    most = service.settings.max_wall_s
    if request.run_timeout > most:
        raise ValueError(f"run_timeout is {request.run_timeout:g} s; this service runs code for at most {most:g} s")
    wall_s = min(most, next((step for step in _WALL_S if step >= request.run_timeout), most))
    most_mb = service.settings.max_memory_mb
    memory_mb = min(_MEMORY_MB, most_mb) if request.memory_limit_MB <= 0 else max(64, request.memory_limit_MB)
    asked = Limits(wall_s=wall_s, cpu_s=wall_s, memory_mb=memory_mb, output_kb=1024)
    if (reason := service.settings.check_limits(asked)) is not None:
        raise ValueError(reason)
    # Rounded up, because each set of limits has guests of its own.
    return replace(asked, memory_mb=min(most_mb, 1 << (memory_mb - 1).bit_length()))


def _snippets(request: Request) -> list[str]:
    """The snippets of one session: they write files and input in pieces, and the last one runs the program."""
    if request.language != "python":
        raise ValueError(f"language {request.language!r}: this sandbox runs only 'python'")
    if request.fetch_files:
        raise ValueError("fetch_files: files are not kept; print what you need")
    files = {name: base64.b64decode(data or "", validate=True) for name, data in request.files.items()}
    for name in files:
        if name.startswith("/") or ".." in name.split("/") or not name.strip("/"):
            raise ValueError(f"files: {name!r} is not a path below the working folder")
    stdin = (request.stdin or "").encode("utf-8", "surrogateescape")
    size = len(stdin) + sum(map(len, files.values()))
    if size > _MOST_INPUT or len(request.code) > MAX_CODE // 4:
        raise ValueError(f"code may have {MAX_CODE // 4} characters, files and stdin {_MOST_INPUT} bytes")
    names = f"_files, _input = {{name: [] for name in {sorted(files)!r}}}, []"
    snippets = [names]
    for target, data in [("_input", stdin), *((f"_files[{name!r}]", data) for name, data in files.items())]:
        snippets += [f"{target}.append({data[at : at + _PIECE]!r})" for at in range(0, len(data), _PIECE)]
    program = _PROGRAM.format(code=ascii(request.code))
    # Short ones share a snippet, because each snippet costs a clone.
    whole = "\n".join([*snippets, program])
    return [whole] if len(whole) <= MAX_CODE else [*snippets, program]


def _answer(request: Request, result: Result) -> dict[str, object]:
    status, code, stderr = "Finished", 1, result.error or ""
    if result.status is Status.TIMEOUT or result.duration_s > request.run_timeout:
        status, code = "TimeLimitExceeded", None
    elif result.ok:
        code = 0
    elif result.status is Status.EXIT and (found := _EXIT_CODE.match(stderr)):
        code = 0 if found[1] == "None" else int(found[1]) & 0xFF
        stderr = ""
    elif result.status in (Status.KILLED, Status.OUTPUT_LIMIT):
        code = -9
    return {
        "status": "Success" if code == 0 else "Failed",
        "message": "",
        "compile_result": None,
        "run_result": {
            "status": status,
            "execution_time": result.duration_s,
            "return_code": code,
            "stdout": result.stdout,
            "stderr": stderr,
        },
        "executor_pod_name": None,
        "files": {},
    }


def _broken(message: str) -> dict[str, object]:
    return {
        "status": "SandboxError",
        "message": encodable(message),
        "compile_result": None,
        "run_result": None,
        "executor_pod_name": None,
        "files": {},
    }
