# ruff: noqa: E501
"""Attacks that try to leave something for other sessions, or to spy on them."""

from .model import EXCEPTION, KILLED, OK, TIMEOUT, attack

STATE = (
    attack("poison-builtins", "replaces builtins",
           "import builtins\nbuiltins.print = builtins.sum = builtins.len = lambda *a, **k: 0", allowed={OK, KILLED}),
    attack("poison-sympy", "replaces sympy's functions",
           "import sympy\nsympy.simplify = sympy.factorint = sympy.solve = sympy.Rational = lambda *a, **k: 0\n"
           "sympy.core.numbers.Integer.__add__ = lambda a, b: a", allowed=OK),
    attack("poison-caches", "corrupts sympy's caches",
           "import sympy, gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and len(o) > 50 and not any("
           "isinstance(k, str) for k in list(o)[:5]):\n        try: o.clear()\n        except Exception: pass",
           allowed={OK, EXCEPTION, KILLED, TIMEOUT}),
    attack("poison-modules", "replaces modules", "import sys\nfor n in list(sys.modules): sys.modules[n] = None", allowed=OK),
    attack("poison-numpy", "writes over numpy's constants in memory",
           "import ctypes, numpy\nfor i in range(-5, 257):\n    ctypes.memset(id(i) + 24, 7, 4)", allowed={OK, KILLED, EXCEPTION, TIMEOUT}),
    attack("settings", "changes locale, decimal, mpmath, umask, folder, recursion limit and hash",
           "import locale, decimal, mpmath, os, sys\ndecimal.getcontext().prec = 1\nmpmath.mp.dps = 1\nos.umask(0)\n"
           "os.chdir('/')\nsys.setrecursionlimit(50)\nsys.set_int_max_str_digits(640)\nos.environ['TZ'] = 'X'",
           allowed={OK, EXCEPTION}),
    attack("random-state", "seeds the shared random generators", "import random, numpy\nrandom.seed(1)\nnumpy.random.seed(1)", allowed=OK),
    attack("files-for-later", "leaves files for the next session",
           "import os\nfor d in ('.', '/tmp', '/var/tmp', '/dev/shm', os.path.expanduser('~')):\n"
           "    try: open(d + '/left', 'w').write('x')\n    except OSError: pass", allowed=OK),
    attack("files-for-next-snippet", "leaves files for the session's next snippet",
           "open('left', 'w').write('x')", "import os\nprint('ESCAPED' if os.path.exists('left') else 'clean')", allowed=OK),
    attack("startup-files", "leaves files that Python runs at start",
           """
           import os, site, sys
           places = [*sys.path, os.path.dirname(os.__file__), "/usr/lib/python3/dist-packages", "/opt/sandbox/guest"]
           for place in places:
               for name in ("evil.pth", "usercustomize.py", "sitecustomize.py", "numpy.py", "__pycache__/x.pyc"):
                   try:
                       open(os.path.join(place or "/", name), "w").close()
                       print("ESCAPED", place, name)
                   except OSError:
                       pass
           """, allowed=OK),
    attack("environment-for-later", "sets LD_PRELOAD and PYTHONPATH",
           "import os\nos.environ.update(LD_PRELOAD='/tmp/x.so', PYTHONPATH='/tmp', PYTHONSTARTUP='/tmp/x')\n"
           "os.putenv('LD_PRELOAD', '/tmp/x.so')", allowed=OK),
    attack("parent-memory", "writes to its parent's memory",
           """
           import os
           for pid in {os.getppid(), 1, 7, 8}:
               for name in ("mem", "maps", "environ", "auxv", "stack", "syscall", "io"):
                   try:
                       open(f"/proc/{pid}/{name}", "rb").read(1)
                       print("ESCAPED", pid, name)
                   except OSError:
                       pass
           """, allowed=OK),
    attack("other-sessions", "looks for other sessions' processes and folders",
           """
           import os
           mine = {str(os.getpid()), str(os.getppid())}
           try:
               for name in os.listdir("/proc"):
                   if name.isdecimal() and name not in mine:
                       for file in ("mem", "environ", "maps", "fd", "cwd"):
                           try:
                               os.stat(f"/proc/{name}/{file}") and open(f"/proc/{name}/{file}", "rb").read(1)
                               print("ESCAPED", name, file)
                           except (OSError, IsADirectoryError):
                               pass
           except OSError:
               pass
           for place in ("/tmp", ".."):
               try:
                   if place == "/tmp" and os.getcwd() == "/tmp":
                       continue
                   print("ESCAPED" if os.listdir(place) else "")
               except OSError:
                   pass
           """, allowed=OK),
    attack("open-own-folder", "opens its folder to all others",
           "import os\nopen('f', 'w').write('x')\nos.chmod('f', 0o777)\n"
           "try: os.chmod('.', 0o777); print('opened')\nexcept OSError as e: print(e)", allowed=OK),
    attack("memory-of-others", "searches its memory for other sessions' data",
           """
           import gc
           # Put together here, so that this snippet's own text does not hold it.
           mark = "canary" + "-" + "secret" + "-" + "of-another-session"
           for thing in gc.get_objects():
               if isinstance(thing, dict):
                   for value in list(thing.values()):
                       if type(value) is str and mark == value:
                           print("ESCAPED", len(value)) if thing is not globals() else None
           """, allowed={OK, TIMEOUT, EXCEPTION}),
    attack("hooks", "leaves trace functions, import hooks, codecs and audit hooks",
           "import sys, codecs, gc\nsys.settrace(lambda *a: None)\nsys.meta_path.insert(0, None)\n"
           "gc.callbacks.append(lambda *a: 1 / 0)\nsys.excepthook = None", allowed={OK, EXCEPTION}),
    attack("frozen-collector", "turns the collector off and leaks cycles",
           "import gc\ngc.disable()\nfor _ in range(10**5):\n    x = []; x.append(x)", allowed=OK),
    attack("signal-mask", "leaves every signal blocked", "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
           "while True: pass", allowed=TIMEOUT),
    attack("rollback", "keeps its effects from before it hung",
           "x = 1", "x = 2\nwhile True: pass", "print('ESCAPED' if x != 1 else 'back')", allowed=OK),
)  # fmt: skip
