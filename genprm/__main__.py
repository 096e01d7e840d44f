"""`python -m genprm`: the commands."""

from genprm.cli.main import main

main()
