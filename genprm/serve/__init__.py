"""`genprm serve`: a judge behind HTTP, for trainers, scripts and browsers.

app = create_app(prm, ServeConfig())       # an ASGI application
await serve(prm, ServeConfig(port=8311))   # the same with uvicorn, until SIGTERM
"""

from genprm.serve.app import create_app
from genprm.serve.run import serve
from genprm.serve.settings import ServeConfig, ServeError

__all__ = ["ServeConfig", "ServeError", "create_app", "serve"]
