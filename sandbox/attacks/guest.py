# ruff: noqa: E501
"""Attacks on the guest shared by all sessions: crash it, fool it, fill it, or outlive a session in it."""

from .model import EXCEPTION, EXIT, INVALID_CODE, KILLED, MEMORY, OK, TIMEOUT, Attack, attack, system_calls
from .protocol import FIND

_BROKEN = "import builtins, os, sys, threading, time\nx = 1"
_RAW_FORK = """
import ctypes, os
libc = ctypes.CDLL(None)
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def clone(flags):
    return libc.syscall(ctypes.c_long(CLONE), ctypes.c_long(flags | 17), 0, 0, 0, 0)
"""


def _reports(name: str, tries: str, body: str) -> Attack:
    return attack(name, tries, "x = 1", FIND + body + "\nimport time; time.sleep(1000)", allowed=KILLED)


GUEST = (
    # Unexpected process exits and reports.
    attack("realtime-signal", "dies of a signal without a name", "import os; os.kill(os.getpid(), 40)", allowed=KILLED),
    attack("every-signal", "dies of several signals in turn", *(f"import os; os.kill(os.getpid(), {n})" for n in (34, 63, 64, 1, 13, 30)),
           allowed={KILLED, OK}),
    _reports("report-pid-text", "reports a process number that is text", 'report({"runner": "x", "nonce": nonce})'),
    _reports("report-pid-bool", "reports a process number that is true", 'report({"runner": True, "nonce": nonce})'),
    _reports("report-pid-huge", "reports a process number of a thousand digits", 'report({"runner": 10**1000, "nonce": nonce})'),
    _reports("report-pid-negative", "reports process -1, which means all processes", 'report({"runner": -1, "nonce": nonce})'),
    _reports("report-outcome-list", "reports an outcome that is a list", 'report({"outcome": [], "error": None, "nonce": nonce})'),
    _reports("report-outcome-dict", "reports an outcome that is an object", 'report({"outcome": {}, "error": {}, "nonce": nonce})'),
    _reports("report-no-fields", "reports nothing but its nonce", 'report({"nonce": nonce})'),
    _reports("report-more-fields", "reports an extra field", 'report({"outcome": "ok", "error": None, "nonce": nonce, "id": 1})'),
    _reports("report-ready-again", "reports a second time that it is ready", 'report({"ready": os.getpid()})'),
    _reports("report-broken", "reports that it could not be set up", 'report({"broken": "x", "nonce": nonce})'),
    _reports("report-nonce-list", "reports with a nonce that is a list", 'report({"outcome": "ok", "error": None, "nonce": [nonce]})'),
    _reports("report-deep", "reports something nested ten thousand deep", "data = b'[' * 10000\nos.write(4, len(data).to_bytes(4, 'big') + data)"),
    _reports("report-error-long", "reports an error of 60 kB", 'report({"outcome": "exception", "error": "e" * 60_000, "nonce": nonce})'),
    _reports("report-error-of-ok", "reports success with an error", 'report({"outcome": "ok", "error": "e", "nonce": nonce})'),
    _reports("report-two-outcomes-late", "reports as another runner", 'report({"runner": os.getpid(), "nonce": nonce})'),
    attack("report-surrogates", "reports an error that cannot be encoded",
           FIND + 'report({"outcome": "exception", "error": "\\ud800" * 4000, "nonce": nonce})\nimport time; time.sleep(1000)', allowed=EXCEPTION),
    attack("report-half", "sends half a report and hangs", "import os, time\nos.write(4, b'\\0\\0\\1\\0{\"outcome\"')\ntime.sleep(1000)",
           "print(1)", allowed=OK),
    attack("report-flood", "sends reports faster than they can be read, to delay the time limit",
           "x = 1", FIND + 'while True: report({"runner": os.getpid(), "nonce": nonce})', allowed={KILLED, TIMEOUT}),
    attack("report-flood-of-children", "has seven processes send reports", "x = 1",
           FIND + 'for _ in range(7): os.fork()\nwhile True: report({"runner": os.getpid(), "nonce": nonce})', allowed={KILLED, TIMEOUT, EXCEPTION}),
    attack("report-then-print", "writes to its report channel and prints that it did", 'import os, time\nos.write(4, b"x" * 100)\nprint("ESC" "APED", flush=True)\ntime.sleep(1)',
           allowed=KILLED),
    attack("claim-invalid", "runs, and reports that it could not be compiled",
           FIND + 'report({"outcome": "invalid_code", "error": "SyntaxError: x", "nonce": nonce})\nimport time; time.sleep(1000)', allowed=KILLED),
    attack("claim-invalid-slowly", "is invalid Python that takes long to parse", "x = " + "+".join(["1"] * 60_000) + " +", allowed={INVALID_CODE, KILLED, TIMEOUT}, longest_s=1.5),
    attack("longest-reply", "has the longest possible reply", "import sys\nsys.stdout.write('\\0' * 9_000 + '\\x7f' * 9_000)\nraise ValueError('\\U0001f600' * 5000)",
           allowed=EXCEPTION),
    attack("exit-code-huge", "leaves with a number of two hundred thousand digits", "import sys; sys.exit(10 ** 200_000)", allowed=EXIT),
    attack("exit-code-surrogate", "leaves with a text that cannot be encoded", "import sys; sys.exit('\\ud800')", allowed=EXIT),
    attack("error-subclass", "raises with a text whose class lies",
           "class S(str):\n    def __len__(self): return 0\n    def encode(self, *a): return b'\\xff'\n    def isascii(self): return True\n"
           "    def __getitem__(self, k): return self\nclass E(Exception):\n    def __str__(self): return S('\\ud800' * 9000)\nraise E", allowed={EXCEPTION, KILLED}),
    # The session's own trusted code, replaced.
    attack("fork-for-clone", "forks where it should clone, and hangs",
           "import os, sys\nsys.modules['guest.kernel'].clone_sibling = os.fork", "while True: pass", allowed={TIMEOUT, KILLED}),
    attack("clone-and-leave", "has its clone end before it can be inspected",
           "import os, sys\nsession = sys.modules['guest.session']\nhonest = session._report\n"
           "def report(message):\n    honest(message)\n    if 'runner' in message: os._exit(0)\nsession._report = report",
           "print('ESCAPED')", allowed=EXIT),
    attack("never-clone", "does not clone itself",
           "import sys, time\nsys.modules['guest.kernel'].clone_sibling = lambda: time.sleep(1000)", "print(1)", allowed=TIMEOUT),
    attack("clone-twice", "makes two clones that both run the snippet",
           "import sys\nkernel = sys.modules['guest.kernel']\nhonest = kernel.clone_sibling\nkernel.clone_sibling = lambda: honest() and honest()",
           "print(1)", allowed={OK, KILLED, TIMEOUT}),
    attack("keep-files", "keeps its files open between snippets by replacing the function that closes them",
           "import sys\nsys.modules['guest.session']._let_go_of_files = lambda: None\n"
           "f = [open(f'f{i}', 'w+') for i in range(40)]\nfor one in f: one.write('x' * 200_000); one.flush()", "print(1)", allowed=KILLED),
    attack("deleted-files", "maps and deletes files until the folder has no free inodes",
           "import mmap\nkept = []\ntry:\n    for i in range(10**5):\n        with open(f'f{i}', 'wb+') as f:\n            f.write(b'x')\n            f.flush()\n"
           "            kept.append(mmap.mmap(f.fileno(), 1, flags=mmap.MAP_PRIVATE))\nexcept OSError: pass", "print(1)", allowed={KILLED, OK}),
    attack("raise-in-the-machinery", "has a timer raise in the code that reports",
           "import signal\ndef h(*_): raise SystemExit\nsignal.signal(signal.SIGALRM, h)\nsignal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\nfor i in range(10**5): pass",
           "print(1)", allowed={OK, EXIT, EXCEPTION, KILLED, TIMEOUT}),
    attack("kill-the-state", "kills the state that failures are rolled back to",
           _BROKEN, "import os\nfor pid in range(max(2, os.getpid() - 300), os.getpid()):\n    try: os.kill(pid, 9)\n    except OSError: pass\nos._exit(1)",
           "print(x)", allowed={OK, KILLED}),
    # Its folder.
    attack("locked-folder", "makes a folder without permissions", "import os; os.mkdir('d', 0)", "import os; print(os.listdir('.'))", allowed=OK),
    attack("nested-locked-folders", "nests a thousand folders and locks each",
           "import os\nfor i in range(900):\n    os.mkdir('d'); os.chdir('d')\nfor i in range(900):\n    os.chdir('..'); os.chmod('d', 0)", allowed={OK, TIMEOUT}),
    attack("long-paths", "nests folders with names too long for any path",
           "import os\nfor i in range(200):\n    os.mkdir('d' * 255); os.chdir('d' * 255)\nopen('f' * 255, 'w').close()", allowed={OK, TIMEOUT}),
    attack("wide-folders", "fills folders with folders", "import os\nfor i in range(30):\n    for j in range(30): os.makedirs(f'{i}/{j}')", allowed=OK),
    attack("lock-own-folder", "locks its own folder", "import os\ntry: os.chmod('.', 0)\nexcept OSError: pass", "print(open('f', 'w').write('x'))", allowed={OK, EXCEPTION}),
    attack("files-from-threads", "has threads make files while it ends",
           "import threading, time\ndef f(n):\n    i = 0\n    while True:\n        open(f'log{n}-{i % 50}', 'w').close(); i += 1\n"
           "for n in range(4): threading.Thread(target=f, args=(n,), daemon=True).start()\ntime.sleep(0.02)",
           "print(1)", "import os, time\nprint(len(os.listdir('.')))", allowed=OK),
    attack("folders-from-children", "has children make folders while it ends",
           "import os, time\nfor n in range(4):\n    if os.fork() == 0:\n        i = 0\n        while True:\n            try: os.makedirs(f'{n}/{i}'); i += 1\n            except OSError: pass\ntime.sleep(0.05)",
           "import os; print(os.listdir('.'))", allowed=OK),
    # Processes that outlive the snippet.
    attack("slow-clone", "is inside clone() in many threads when it is stopped",
           "import os, threading, time\nbig = bytearray(b'1') * (100 << 20)\ndef f():\n    while True:\n        try:\n            if os.fork() == 0:\n                while True: pass\n"
           "        except OSError: pass\nfor _ in range(4): threading.Thread(target=f, daemon=True).start()\ntime.sleep(0.02)", "print(1)", allowed={OK, TIMEOUT, KILLED}),
    attack("vfork-waiter", "has a thread that cannot be stopped because it waits for a child",
           _RAW_FORK + "import threading, time\ndef f():\n    if clone(0x4000) == 0:\n        while True: time.sleep(1)\nthreading.Thread(target=f, daemon=True).start()\ntime.sleep(0.02)",
           "print(1)", allowed=OK),
    attack("orphaned-group", "arranges its process group so that the kernel wakes it when others end",
           "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nsignal.signal(signal.SIGCONT, lambda *_: None)",
           "import os, signal, threading, time\ngroup = os.getpgrp()\nif os.fork() == 0:\n    os.setpgid(0, 0)\n    if os.fork() == 0:\n        try: os.setpgid(0, group)\n        except OSError: pass\n"
           "    while True: time.sleep(1)\ndef f():\n    while True: pass\nthreading.Thread(target=f, daemon=True).start()\ntime.sleep(0.03)",
           "print(1)", allowed=OK),
    attack("continue-storm", "has children wake the session continuously",
           "import os, signal, time\nfor _ in range(5):\n    if os.fork() == 0:\n        while True:\n            try: os.kill(-1, signal.SIGCONT)\n            except OSError: pass\ntime.sleep(0.03)",
           "print(1)", allowed={OK, TIMEOUT}),
    attack("kill-storm", "has children stop and kill other processes",
           "import os, signal, time\nfor _ in range(5):\n    if os.fork() == 0:\n        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n        while True:\n            try: os.kill(-1, signal.SIGSTOP)\n            except OSError: pass\ntime.sleep(0.03)",
           "print(1)", allowed={OK, TIMEOUT, KILLED}),
    attack("fork-chain", "forks and exits repeatedly, to outrun the listing of processes",
           "import os, time\nif os.fork() == 0:\n    while True:\n        try:\n            if os.fork(): os._exit(0)\n        except OSError: pass\ntime.sleep(0.02)",
           "print(1)", allowed={OK, TIMEOUT}),
    attack("sibling-chain", "makes siblings that make siblings", _RAW_FORK + "import time\nif clone(0x8000) == 0:\n    while True:\n        if clone(0x8000) > 0: os._exit(0)\ntime.sleep(0.02)",
           "print(1)", allowed={OK, TIMEOUT, KILLED}),
    attack("children-in-sessions", "has children in their own sessions, with every signal ignored",
           "import os, signal, time\nfor _ in range(6):\n    if os.fork() == 0:\n        os.setsid()\n        for n in range(1, 65):\n            try: signal.signal(n, signal.SIG_IGN)\n            except (OSError, ValueError): pass\n        while True: time.sleep(0.001)",
           "print(1)", allowed=OK),
    attack("signal-first-process", "sends every signal to the first process", "import os\nfor n in range(1, 65):\n    try: os.kill(1, n)\n    except (OSError, ValueError): pass",
           "print(1)", allowed=OK),
    # Resources held while idle.
    attack("threads-at-rest", "leaves seven threads", "import threading, time\nfor _ in range(20):\n    try: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n    except RuntimeError: break",
           "print(1)", allowed={OK, KILLED}),
    attack("pipes-at-rest", "leaves full pipes", "import os\nkept = []\ntry:\n    while True:\n        r, w = os.pipe(); os.set_blocking(w, False); kept += [r, w]; os.write(w, b'x' * 65536)\nexcept OSError: pass",
           "print(1)", allowed=OK),
    attack("enlarged-pipes", "takes others' share of pipe memory",
           "import fcntl, os\nr, w = os.pipe()\ntry: fcntl.fcntl(w, 1031, 1 << 20); print('ESCAPED')\nexcept OSError: pass", allowed=OK),
    attack("memory-in-parts", "keeps a little more with every snippet", *("import mmap\ntry: y = y + [bytearray(b'1') * (30 << 20)]\nexcept NameError: y = []",) * 5,
           allowed={OK, MEMORY}),
    # Effects of a failed snippet on the earlier state.
    attack("rollback-mapping", "writes to a shared mapping before it hangs",
           "import mmap\ntry: m = mmap.mmap(-1, 4096)\nexcept OSError: m = bytearray(1)", "m[0] = 7\nwhile True: pass", "print('ESCAPED' if m[0] else 'back')", allowed=OK),
    attack("rollback-pipe", "writes to a pipe before it hangs", "import os\nr, w = os.pipe()\nos.set_blocking(r, False)", "os.write(w, b'x')\nwhile True: pass",
           "try: print('ESCAPED' if os.read(r, 1) else 'back')\nexcept OSError: print('back')", allowed=OK),
    attack("rollback-file", "moves in an open file before it hangs", "import os\nf = os.open('f', os.O_CREAT | os.O_RDWR)\nos.write(f, b'abc')",
           "os.write(f, b'def')\nwhile True: pass", "try: print('ESCAPED' if os.lseek(f, 0, 1) > 3 else 'back')\nexcept OSError: print('back')", allowed=OK),
    # Covert channels between sessions.
    attack("locks", "locks files that all sessions can read",
           """
           import fcntl, os
           for path in (os.__file__, "/dev/null"):
               fd = os.open(path, os.O_RDONLY)
               for number, argument in ((5, bytes(32)), (6, bytes(32)), (7, bytes(32)), (36, bytes(32)), (37, bytes(32)), (38, bytes(32)),
                                        (8, os.getpid()), (10, 10), (15, bytes(8)), (1024, 0), (1026, 1), (1036, bytes(8)), (1037, bytes(8))):
                   try:
                       fcntl.fcntl(fd, number, argument)
                       print("ESCAPED", path, number)
                   except OSError:
                       pass
               try:
                   fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                   print("ESCAPED", path, "flock")
               except OSError:
                   pass
           """, allowed=OK),
    attack("free-space", "reads how much space others have left in the folders",
           "import os\nfor ask in (lambda: os.statvfs('.'), lambda: os.statvfs('/'), lambda: os.fstatvfs(1)):\n    try: ask(); print('ESCAPED')\n    except OSError: pass", allowed=OK),
    attack("null-device", "leaves flags on the null device for others", "import fcntl, os\nfor fd in (0, 2): fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)", allowed=OK),
    attack("other-processes", "asks the kernel about other processes",
           system_calls("""
           space = ctypes.create_string_buffer(256)
           for pid in {1, 2, os.getppid() or 1, os.getpid() + 1}:
               refused("getpgid", (121, 155), pid)
               refused("getsid", (124, 156), pid)
               refused("getpriority", (140, 141), 0, pid)
               refused("sched_getaffinity", (204, 123), pid, 256, space)
               refused("sched_getparam", (143, 121), pid, space)
               refused("sched_getscheduler", (145, 120), pid)
               refused("prlimit64", (302, 261), pid, 7, None, space)
               refused("get_robust_list", (274, 100), pid, space, space)
               refused("process_mrelease", (448, 448), pid, 0)
           """), allowed=OK),
)  # fmt: skip
