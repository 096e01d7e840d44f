"""The sandbox as a service: one machine that isolates runs the snippets of many that do not.

`genprm sandbox serve` starts it, and `--sandbox https://host:port` uses it. It needs the extra `serve`.
"""

from .run import serve
from .settings import ServiceError, ServiceSettings

__all__ = ["ServiceError", "ServiceSettings", "serve"]
