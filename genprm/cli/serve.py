"""`genprm serve`: a judge behind HTTP."""

from __future__ import annotations

from contextlib import ExitStack

from genprm.cli.boundary import UsageError, run_async, stderr
from genprm.cli.verify import tell
from genprm.config import JudgeConfig
from genprm.serve.settings import ServeConfig, keys_from_environment

EPILOG = """Examples:\n
  genprm serve --ui                                            # the built-in model, with a page at http://127.0.0.1:8311\n
  genprm serve --model GenPRM/GenPRM-7B --base-url http://127.0.0.1:8000/v1\n
  GENPRM_API_KEYS=secret genprm serve --host 0.0.0.0 --model GenPRM/GenPRM-7B\n
SIGTERM: finishes accepted requests, then exits with code 0."""


def serve(judge: JudgeConfig, service: ServeConfig) -> None:
    """Serves a judge over HTTP.

    POST /v1/judge, /v1/score and /v1/critique take {"problem": ..., "steps": [...]}. /get_reward (OpenRLHF), /rm
    (slime), /verify (NeMo Gym) and /pooling (vLLM) answer as those clients expect. GET /metrics, /health, /ready,
    /v1/models and /openapi.json. Clients send one of the keys in GENPRM_API_KEYS, if set.
    """
    try:
        import fastapi  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import prometheus_client  # noqa: F401  # pyright: ignore[reportUnusedImport]
        import uvicorn  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise UsageError(f"the service needs {error.name}: pip install 'genprm[serve]'") from None
    run_async(_serve(judge, service))


async def _serve(config: JudgeConfig, service: ServeConfig) -> None:
    from genprm.runs.folder import open_run
    from genprm.runs.opening import open_judge
    from genprm.serve import serve

    keys = keys_from_environment()
    service.check_exposure(keys)
    with ExitStack() as stack:
        log = None
        if service.log_to is not None:
            log = stack.enter_context(open_run(service.log_to, command="serve", config=config.stored()))
        async with open_judge(config, run=log, tell=tell) as prm:
            await serve(
                prm,
                service,
                votes=config.most_votes,
                log=log,
                keys=keys,
                on_start=lambda url: stderr().print(f"{prm.name} answers at {url}", soft_wrap=True, markup=False),
            )
