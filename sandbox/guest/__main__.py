"""Start the supervisor: `python -m guest CONFIG`, with the configuration as JSON."""

import json
import sys

from .supervisor import Config, main

settings = json.loads(sys.argv[1])
main(Config(**{**settings, "readable": tuple(settings["readable"])}))
