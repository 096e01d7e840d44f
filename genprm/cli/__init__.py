"""The command line. Every command is a file; heavy imports stand inside the commands."""
