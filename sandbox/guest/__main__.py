"""Start the supervisor: `python -m guest CONFIG`, with the configuration as JSON."""

import json
import os
import sys

from .supervisor import Config, main

# Podman sets these by itself; snippets see the same environment everywhere.
for name in ("TERM", "container"):
    os.environ.pop(name, None)
main(Config(**json.loads(sys.argv[1])))
