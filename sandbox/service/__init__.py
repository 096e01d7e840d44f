"""The sandbox as a service: a machine with isolation runs the snippets of machines without it.

`genprm sandbox serve` starts it, and `--sandbox https://host:port` uses it. It needs the extra `serve`.
"""

from .run import serve
from .settings import ServiceError, ServiceSettings

__all__ = ["ServiceError", "ServiceSettings", "serve"]
