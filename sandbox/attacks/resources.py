# ruff: noqa: E501
"""Attacks that exhaust time, memory, processes, files or output."""

from .model import EXCEPTION, EXIT, KILLED, MEMORY, OK, OUTPUT_LIMIT, TIMEOUT, attack, system_calls

RESOURCES = (
    attack("busy-loop", "never ends", "while True: pass", allowed=TIMEOUT),
    attack("sleep", "sleeps for thirty years", "import time; time.sleep(10**9)", allowed=TIMEOUT),
    attack(
        "fork-bomb", "forks forever",
        """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
        allowed=TIMEOUT, longest_s=1.5,
    ),
    attack(
        "fork-and-wait", "fills the process table with sleepers",
        """
        import os, time
        children = 0
        try:
            for _ in range(10_000):
                if os.fork() == 0:
                    time.sleep(1000)
                children += 1
        except OSError as error:
            print(error)
        if children > 16:
            print("ESCAPED", children)
        """,
        allowed=OK,
    ),
    attack(
        "thread-bomb", "starts threads forever",
        """
        import threading, time
        started = 0
        try:
            while True:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
                started += 1
        finally:
            if started > 16:
                print("ESCAPED", started)
        """,
        allowed=EXCEPTION,
    ),
    attack("big-allocation", "allocates 2 GiB at once", "x = bytearray(2 << 30)", allowed=MEMORY),
    attack("small-allocations", "allocates a little, very often", "x = []\nwhile True: x.append(bytearray(1000))",
           allowed={MEMORY, TIMEOUT}),
    attack("numpy-pages", "touches every page of big arrays",
           "import numpy\nx = []\nwhile True: x.append(numpy.ones(1 << 24))", allowed={MEMORY, TIMEOUT}),
    attack(
        "memory-by-forks", "takes the memory limit once for every process it can fork",
        """
        import os, time
        x = bytearray(100 << 20)
        for i in range(7):
            try:
                if os.fork() == 0:
                    x = bytearray(b"1") * (150 << 20)
                    time.sleep(1000)
            except OSError:
                break
        time.sleep(1000)
        """,
        allowed={TIMEOUT, KILLED, MEMORY}, longest_s=1.5,
    ),
    attack("memory-at-rest", "keeps 200 MB between snippets", "x = bytearray(b'1') * (200 << 20)", "print(len(x))",
           allowed=OK),
    attack("shared-mapping", "maps shared memory beyond the limit",
           "import mmap\nx = [mmap.mmap(-1, 64 << 20) for _ in range(64)]", allowed={EXCEPTION, MEMORY}),
    attack("print-flood", "prints forever", "while True: print('x' * 1000)", allowed={OUTPUT_LIMIT, TIMEOUT}),
    attack("gigabyte-of-output", "writes a gigabyte",
           "import os\nfor _ in range(1024): os.write(1, b'x' * (1 << 20))", allowed=OUTPUT_LIMIT),
    attack("one-big-print", "prints a megabyte at once", "print('x' * (1 << 20))", allowed=OK),
    attack("pipe-deadlock", "writes more than a pipe holds, then continues", "print('x' * 300_000)\nprint('end')",
           allowed=OK),
    attack("stderr-flood", "writes errors forever", "import sys\nwhile True: sys.stderr.write('x' * 10_000)",
           allowed=TIMEOUT),
    attack("fill-scratch", "fills its folder with one file",
           "with open('f', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))", allowed=EXCEPTION),
    attack(
        "fill-scratch-with-files", "fills its folder with many big files",
        """
        for i in range(100):
            with open(f"f{i}", "wb") as f:
                f.write(b"x" * (4 << 20))
        print("ESCAPED")
        """,
        allowed=EXCEPTION,
    ),
    attack("million-files", "makes a million empty files",
           "for i in range(10**6): open(f'f{i}', 'w').close()\nprint('ESCAPED')", allowed={EXCEPTION, TIMEOUT}),
    attack("million-links", "makes a million links",
           "import os\nopen('f', 'w').close()\nfor i in range(10**6): os.symlink('f', f'l{i}')\nprint('ESCAPED')",
           allowed=EXCEPTION),
    attack("deep-folders", "makes folders in folders",
           "import os\nfor i in range(10**6):\n    os.mkdir('d'); os.chdir('d')\nprint('ESCAPED')", allowed={EXCEPTION, TIMEOUT}),
    attack(
        "locked-folders", "makes folders without permissions",
        """
        import os
        for i in range(20):
            os.makedirs(f"d{i}/e/f")
            open(f"d{i}/e/f/g", "w").close()
            os.chmod(f"d{i}/e/f", 0)
            os.chmod(f"d{i}/e", 0)
            os.chmod(f"d{i}", 0)
        """,
        allowed=OK,
    ),
    attack("odd-file-names", "makes files whose names are not text",
           "import os\nfor n in (b'\\xff\\xfe', b'a\\nb', b'-rf', b'\\xed\\xa0\\x80', b'*'): os.close(os.open(n, os.O_CREAT))",
           allowed=OK),
    attack("shared-memory", "fills /dev/shm",
           "with open('/dev/shm/x', 'wb') as f: f.write(b'x' * (1 << 20))\nprint('ESCAPED')", allowed=EXCEPTION),
    attack(
        "descriptors", "opens files until none is left",
        """
        import os
        opened = []
        try:
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        finally:
            if len(opened) > 64:
                print("ESCAPED", len(opened))
        """,
        allowed=EXCEPTION,
    ),
    attack("pipes", "hoards pipes", "import os\nx = []\nwhile True: x.append(os.pipe())", allowed=EXCEPTION),
    attack("deep-recursion", "recurses until the stack ends",
           "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", allowed={KILLED, MEMORY, EXCEPTION, TIMEOUT}),
    attack("recursion-in-c", "recurses in C",
           "x = []\nfor _ in range(10**6): x = [x]\nrepr(x)", allowed={KILLED, EXCEPTION, MEMORY, TIMEOUT}),
    attack("big-power", "computes 7**(10**8)", "print(7 ** (10**8))", allowed={TIMEOUT, EXCEPTION}),
    attack("digits", "turns a huge integer into text", "print(len(str(10 ** 10**6)))", allowed={TIMEOUT, EXCEPTION}),
    attack("regex", "matches a pattern with exponential backtracking",
           "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')", allowed=TIMEOUT),
    attack("factor", "factors a product of two large primes",
           "import sympy; sympy.factorint((10**78 + 7) * sympy.nextprime(10**77 + 12345))", allowed={TIMEOUT, EXCEPTION}),
    attack("lapack", "stays in LAPACK, where no signal handler runs",
           "import numpy; numpy.linalg.svd(numpy.random.rand(3000, 3000))", allowed={TIMEOUT, MEMORY}),
    attack("endless-generator", "collects an endless generator",
           "import itertools; list(itertools.count())", allowed={MEMORY, TIMEOUT}),
    attack("endless-sum", "sums an endless generator", "import itertools; sum(itertools.count())", allowed=TIMEOUT),
    attack("hard-integral", "integrates sin(x)**100000",
           "from sympy import *\nx = Symbol('x')\nintegrate(sin(x)**100000, x)",
           allowed={TIMEOUT, EXCEPTION, MEMORY, OK, KILLED}),
    attack("hard-simplify", "simplifies what sympy cannot",
           "from sympy import *\nx = symbols('x')\n"
           "simplify(sum((sin(k*x)**k * cos(x)**(k+1))/(tan(k*x) + k) for k in range(1, 40)))",
           allowed={TIMEOUT, EXCEPTION, MEMORY, OK}),
    attack("sparse-file", "makes a sparse file of a terabyte",
           "with open('f', 'wb') as f: f.truncate(1 << 40)\nprint('ESCAPED')", allowed=EXCEPTION),
    attack("fallocate", "reserves a gigabyte", "import os\nwith open('f', 'wb') as f: os.posix_fallocate(f.fileno(), 0, 1 << 30)\nprint('ESCAPED')",
           allowed=EXCEPTION),
    attack(
        "kernel-objects", "hoards event descriptors, timers, watches and anonymous files",
        system_calls("""
        refused("eventfd2", (290, 19), 0, 0)
        refused("timerfd_create", (283, 85), 0, 0)
        refused("timer_create", (222, 107), 0, 0, 0)
        refused("inotify_init1", (294, 26), 0)
        refused("fanotify_init", (300, 262), 0, 0)
        refused("memfd_create", (319, 279), b"x", 0)
        refused("memfd_secret", (447, 447), 0)
        refused("signalfd4", (289, 74), -1, 0, 8, 0)
        refused("epoll_create1", (291, 20), 0)
        refused("io_setup", (206, 0), 128, 0)
        refused("mq_open", (240, 180), b"x", 66, 384, 0)
        refused("shmget", (29, 194), 0, 4096, 896)
        refused("semget", (64, 190), 0, 1, 896)
        refused("msgget", (68, 186), 0, 896)
        refused("mlockall", (151, 230), 3)
        """),
        allowed=OK,
    ),
    attack("decompression-bomb", "unpacks kilobytes into gigabytes",
           "import zlib\nx = zlib.compress(bytes(10 << 20)) \ny = [zlib.decompress(x) for _ in range(1000)]",
           allowed={MEMORY, TIMEOUT}),
    attack("cpu-in-children", "uses CPU in children that outlive it",
           """
           import os
           for _ in range(6):
               if os.fork() == 0:
                   while True: pass
           os._exit(0)
           """, allowed={EXIT, TIMEOUT}),
)  # fmt: skip
