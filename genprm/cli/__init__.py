"""The command line. Each command is a file; heavy imports are inside the commands."""
