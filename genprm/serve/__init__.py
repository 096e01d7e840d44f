"""`genprm serve`: a judge behind HTTP, for trainers, scripts and browsers.

app = create_app(prm, ServeConfig())       # an ASGI application
await serve(prm, ServeConfig(port=8311))   # the same with uvicorn, until SIGTERM
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm.serve.settings import ServeConfig, ServeError

if TYPE_CHECKING:
    from genprm.serve.app import create_app
    from genprm.serve.run import serve

__all__ = ["ServeConfig", "ServeError", "create_app", "serve"]


def __getattr__(name: str) -> object:
    # The command line imports the settings at every start; names that need FastAPI are imported on first use.
    if name == "create_app":
        from genprm.serve.app import create_app

        return create_app
    if name == "serve":
        from genprm.serve.run import serve

        return serve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
