"""What runs inside the sandbox: a supervisor, a zygote with the libraries loaded, and one process a session.

Standard library and ctypes only. The host never imports more of it than `frames` and `seccomp`.
"""
