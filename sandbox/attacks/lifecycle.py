# ruff: noqa: E501
"""Attacks by signals, and on the start and end of processes."""

from .model import EXCEPTION, EXIT, KILLED, OK, OUTPUT_LIMIT, TIMEOUT, attack, system_calls

LIFECYCLE = (
    attack("ignore-signals", "ignores every signal and sleeps",
           """
           import signal, time
           for n in range(1, 65):
               try:
                   signal.signal(n, signal.SIG_IGN)
               except (OSError, ValueError):
                   pass
           signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
           time.sleep(1000)
           """, allowed=TIMEOUT),
    attack("swallow-everything", "catches every exception and continues",
           "while True:\n    try:\n        while True: pass\n    except BaseException: pass", allowed=TIMEOUT),
    attack("sleep-in-handler", "stays in a signal handler",
           "import signal, time\ndef h(*_):\n    signal.alarm(1); time.sleep(1000)\n"
           "signal.signal(signal.SIGALRM, h); signal.setitimer(signal.ITIMER_REAL, 0.01)\ntime.sleep(1000)",
           allowed=TIMEOUT),
    attack("kill-all", "kills every process it may", "import os; os.kill(-1, 9); print('alive')",
           allowed={OK, KILLED, TIMEOUT, EXCEPTION}),
    attack("kill-all-from-child", "has a child kill every process it may",
           "import os, time\nif os.fork() == 0:\n    os.kill(-1, 9); os._exit(0)\ntime.sleep(0.2); print('alive')",
           allowed={OK, KILLED, TIMEOUT}),
    attack(
        "kill-supervisor", "signals its parent, the first process and process ids near its own",
        """
        import os, signal
        mine = os.getpid()
        parent = os.getppid()
        for pid in {1, 2, 7, *range(1, 300), *range(max(1, mine - 300), mine + 300)} - {mine}:
            for number in (0, signal.SIGKILL):
                try:
                    os.kill(pid, number)
                except OSError:
                    continue
                # Processes of its own session are its own to harm, and no one else's.
                if pid in (1, parent) and parent != 1:
                    print("ESCAPED", pid, number)
        """,
        allowed={OK, TIMEOUT, KILLED},
    ),
    attack("stop-itself", "stops itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", allowed=TIMEOUT),
    attack("stop-parent", "stops its parent and its group",
           "import os, signal\nfor target in (os.getppid(), -os.getpgrp()):\n    try: os.kill(target, signal.SIGSTOP)\n"
           "    except OSError as e: print(e)", allowed={OK, TIMEOUT}),
    attack("kill-itself", "kills itself", "import os; os.kill(os.getpid(), 9)", allowed=KILLED),
    attack("segfault", "crashes", "import ctypes; ctypes.string_at(0)", allowed=KILLED),
    attack("abort", "aborts", "import os; os.abort()", allowed=KILLED),
    attack("core-dump", "crashes and requests a core file",
           "import resource, os\ntry: resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)); print('ESCAPED')\n"
           "except (ValueError, OSError): pass\nos.abort()", allowed=KILLED),
    attack("exit-at-once", "ends the process with success before the snippet's end",
           "import os\nprint('all checks passed')\nos._exit(0)\nassert False", allowed=EXIT),
    attack("exit-from-thread", "ends the process from a thread",
           "import os, threading, time\nthreading.Thread(target=os._exit, args=(0,)).start()\ntime.sleep(1000)",
           allowed=EXIT),
    attack("sys-exit", "exits early with success", "import sys\nprint('passed')\nsys.exit(0)\nassert False", allowed=EXIT),
    attack("sys-exit-text", "exits early with a text", "import sys\nsys.exit('passed')", allowed=EXIT),
    attack("quit", "exits early by quit()", "print('passed')\nraise SystemExit", allowed={EXIT}),
    attack("evil-exit-code", "exits with an object that misbehaves when shown",
           "class E:\n    def __repr__(self): raise SystemExit\n    __str__ = __repr__\nraise SystemExit(E())", allowed=EXIT),
    attack("at-exit", "registers an endless exit handler",
           "import atexit\ndef f():\n    while True: pass\natexit.register(f)", "print(1)", allowed=OK),
    attack("fork-at-exit", "forks in destructors",
           "import os\nclass D:\n    def __del__(self):\n        os.fork()\nx = D()\ndel x\ny = D()", allowed={OK, EXCEPTION, KILLED}),
    attack("endless-destructor", "has a destructor that never ends",
           "class D:\n    def __del__(self):\n        while True: pass\nx = D()\ndel x", allowed=TIMEOUT),
    attack("interrupt-itself", "raises KeyboardInterrupt", "raise KeyboardInterrupt", allowed=EXCEPTION),
    attack(
        "daemon", "leaves a daemon that holds its output",
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    os.write(1, b"still here\\n")
                    time.sleep(0.01)
            os._exit(0)
        os.wait()
        """,
        "import time\nprint('quiet' if True else '')\ntime.sleep(0.1)",
        allowed=OK,
    ),
    attack("orphans-after-timeout", "has children outlive its own timeout",
           """
           import os
           for _ in range(2):
               try:
                   if os.fork() == 0:
                       os.setsid()
               except OSError:
                   pass
           while True: pass
           """, allowed=TIMEOUT, longest_s=1.5),
    attack("other-group", "leaves its process group and session",
           "import os\ntry: os.setpgid(0, 0)\nexcept OSError: pass\nif os.fork() == 0:\n    os.setsid()\nwhile True: pass",
           allowed=TIMEOUT, longest_s=1.5),
    attack("siblings", "makes children that belong to its parent",
           system_calls("""
           for _ in range(20):
               pid = libc.syscall(ctypes.c_long((56, 220)[COLUMN]), ctypes.c_long(0x8000 | 17), 0, 0, 0, 0)
               if pid == 0:
                   while True: pass
           """), allowed={OK, TIMEOUT, KILLED}),
    attack("spawn", "starts programs by posix_spawn",
           "import os, sys\nos.posix_spawn('/bin/sh', ['sh', '-c', 'echo ESCAPED'], {})", allowed={EXCEPTION, OK}),
    attack("subprocess", "starts a shell",
           "import subprocess; print(subprocess.run('echo ESC''APED', shell=True, capture_output=True, text=True).stdout)",
           allowed=EXCEPTION),
    attack("multiprocessing", "uses a pool of processes",
           "import multiprocessing\nwith multiprocessing.Pool(4) as p: print(p.map(abs, [-1]))",
           allowed={EXCEPTION, OK, TIMEOUT}),
    attack("close-output", "closes its output", "import os\nprint('a')\nos.close(1)\nprint('b')", "print('c')", allowed=OK),
    attack("close-everything", "closes every descriptor", "import os; os.closerange(0, 1 << 16)",
           allowed={KILLED, EXIT, TIMEOUT}),
    attack("swap-descriptors", "puts its command pipe in place of its output",
           "import os\nfor a in (3, 4, 5):\n    try: os.dup2(a, 1)\n    except OSError: pass\nprint('x' * 1000)",
           "print(1)", allowed={OK, KILLED}),
    attack("thread-left-spinning", "leaves threads that use CPU while the session is idle",
           "import threading\ndef f():\n    while True: pass\nfor _ in range(4): threading.Thread(target=f, daemon=True).start()",
           allowed=OK),
    attack("timer-left-running", "leaves a timer whose handler uses CPU while the session is idle",
           "import signal\ndef h(*_):\n    while True: pass\nsignal.signal(signal.SIGALRM, h)\n"
           "signal.setitimer(signal.ITIMER_REAL, 0.05)", allowed=OK),
    attack("wake-itself", "has a child wake the session while it is idle",
           "import os, signal, time\nmine = os.getpid()\nif os.fork() == 0:\n    while True:\n"
           "        os.kill(mine, signal.SIGCONT); time.sleep(0.001)", "print(1)", allowed=OK),
    attack("output-from-thread", "prints from a thread after its end",
           "import threading, time\ndef f():\n    while True: print('late', flush=True)\n"
           "threading.Thread(target=f, daemon=True).start()", "print(1)", allowed={OK, OUTPUT_LIMIT, TIMEOUT}),
)  # fmt: skip
