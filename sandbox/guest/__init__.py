"""The code inside the sandbox: a supervisor, a zygote with loaded libraries, and one process per session.

Uses only the standard library and ctypes. The host imports only `frames` and `seccomp`.
"""
