"""`python -m genprm`: the command line."""

from genprm.cli.main import main

main()
