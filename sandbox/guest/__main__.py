"""Start the supervisor: `python -m guest CONFIG`, with the configuration as JSON."""

import json
import sys

from .supervisor import Config, main

main(Config(**json.loads(sys.argv[1])))
