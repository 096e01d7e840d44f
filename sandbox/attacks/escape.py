# ruff: noqa: E501
"""Attacks on the isolation: privileges, kernel interfaces, the host's files, the network."""

from .model import EXCEPTION, EXIT, KILLED, OK, attack, system_calls

ESCAPE = (
    attack("secrets", "reads the environment for secrets",
           """
           import os
           allowed = {"PATH", "LC_ALL", "TZ", "HOME", "TMPDIR", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONPATH", "PYTHONHOME",
                      "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "LD_LIBRARY_PATH", "OPENBLAS_NUM_THREADS", "PWD", "LC_CTYPE",
                      "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "HOSTNAME", "LANG", "GPG_KEY", "SHLVL",
                      "PYTHON_VERSION", "PYTHON_SHA256", "PYTHON_PIP_VERSION", "PYTHON_SETUPTOOLS_VERSION"}
           for name in set(os.environ) - allowed:
               print("ESCAPED", name)
           try:
               open("/proc/1/environ", "rb").read()
               print("ESCAPED")
           except OSError:
               pass
           """, allowed=OK),
    attack("host-files", "reads files of the host",
           """
           import os
           for path in ("/root", "/home", "/etc/shadow", "/etc/ssh", "/var/lib/docker", "/var/run/docker.sock",
                        "/run/docker.sock", "/host", "/mnt", "/media", "/boot", "/var/log", "/sys/kernel/debug",
                        "/sys/firmware", "/proc/kcore", "/proc/kallsyms", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda"):
               try:
                   if os.path.isdir(path):
                       found = os.listdir(path)
                   else:
                       with open(path, "rb") as file:
                           found = file.read(16)
                   # An image may have empty folders of these names, and a listing of symbols whose addresses are hidden.
                   if found and not (path == "/proc/kallsyms" and found.startswith(b"0000000000000000")):
                       print("ESCAPED", path, found)
               except OSError:
                   pass
           """, allowed=OK),
    attack("write-anywhere", "writes outside its folder",
           """
           import os
           own = os.path.realpath(".")
           for place in ("/", "/etc", "/usr", "/usr/lib", "/opt", "/opt/sandbox", "/var", "/var/tmp", "/dev", "/dev/shm", "/proc",
                         "/proc/sys", "/sys", "/sys/fs/cgroup", "/run", "/tmp", "/supervisor", "/lib", "/root"):
               if os.path.realpath(place) == own:
                   continue
               try:
                   os.close(os.open(place + "/evil", os.O_CREAT | os.O_WRONLY))
                   print("ESCAPED", place)
               except OSError:
                   pass
           """, allowed=OK),
    attack("become-root", "becomes root",
           "import os\nfor f in (os.setuid, os.setgid, os.seteuid, os.setegid):\n"
           "    try: f(0); print('ESCAPED', f.__name__)\n    except OSError: pass\n"
           "try: os.setgroups([0]); print('ESCAPED')\nexcept OSError: pass\nprint('ESCAPED' if 0 in (os.getuid(), os.getgid()) else '')",
           allowed=OK),
    attack("capabilities", "takes capabilities",
           system_calls("""
           refused("capset", (126, 91), None, None)
           refused("prctl(PR_SET_KEEPCAPS)", (157, 167), 8, 1)
           refused("prctl(PR_SET_DUMPABLE)", (157, 167), 4, 1)
           refused("prctl(PR_SET_SECCOMP)", (157, 167), 22, 1)
           refused("prctl(PR_SET_MM)", (157, 167), 35, 1)
           refused("seccomp", (317, 277), 1, 0, 0)
           refused("setresuid", (117, 147), 0, 0, 0)
           refused("setfsuid", (122, 151), 0)
           """), allowed=OK),
    attack("mounts", "mounts, unmounts and changes root",
           system_calls("""
           refused("mount", (165, 40), b"tmpfs", b"/tmp", b"tmpfs", 0, 0)
           refused("umount2", (166, 39), b"/tmp", 2)
           refused("pivot_root", (155, 41), b"/", b"/")
           refused("chroot", (161, 51), b"/")
           refused("open_tree", (428, 428), -100, b"/", 1)
           refused("move_mount", (429, 429), -100, b"/", -100, b"/tmp", 0)
           refused("fsopen", (430, 430), b"tmpfs", 0)
           refused("mount_setattr", (442, 442), -100, b"/", 0, None, 0)
           refused("statmount", (457, 457), None, None, 0, 0)
           refused("listmount", (458, 458), None, None, 0, 0)
           refused("swapon", (167, 224), b"/tmp/x", 0)
           refused("quotactl", (179, 60), 0, None, 0, None)
           """), allowed=OK),
    attack("namespaces", "makes and enters namespaces",
           system_calls("""
           for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80):
               refused(f"unshare {flag:#x}", (272, 97), flag)
               if flag != 0x80:
                   refused(f"clone {flag:#x}", (56, 220), ctypes.c_long(flag | 17), 0, 0, 0, 0)
           refused("clone3", (435, 435), ctypes.create_string_buffer(88), 88)
           refused("setns", (308, 268), 0, 0)
           """), allowed=OK),
    attack("tracing", "traces and reads other processes",
           system_calls("""
           refused("ptrace(TRACEME)", (101, 117), 0, 0, 0, 0)
           refused("ptrace(ATTACH)", (101, 117), 16, os.getppid(), 0, 0)
           refused("process_vm_readv", (310, 270), os.getppid(), None, 0, None, 0, 0)
           refused("process_vm_writev", (311, 271), os.getppid(), None, 0, None, 0, 0)
           refused("process_madvise", (440, 440), 0, None, 0, 0, 0)
           refused("pidfd_open", (434, 434), os.getppid(), 0)
           refused("pidfd_getfd", (438, 438), 0, 0, 0)
           refused("pidfd_send_signal", (424, 424), 0, 0, None, 0)
           refused("kcmp", (312, 272), 1, 1, 0, 0, 0)
           refused("move_pages", (279, 239), 1, 0, None, None, None, 0)
           """), allowed=OK),
    attack("kernel-programs", "loads programs into the kernel",
           system_calls("""
           refused("bpf", (321, 280), 0, None, 0)
           refused("perf_event_open", (298, 241), None, 0, -1, -1, 0)
           refused("userfaultfd", (323, 282), 0)
           refused("io_uring_setup", (425, 425), 1, ctypes.create_string_buffer(120))
           refused("io_uring_enter", (426, 426), 0, 0, 0, 0, None, 0)
           refused("io_uring_register", (427, 427), 0, 0, None, 0)
           refused("init_module", (175, 105), None, 0, b"")
           refused("finit_module", (313, 273), 0, b"", 0)
           refused("delete_module", (176, 106), b"x", 0)
           refused("kexec_load", (246, 104), 0, 0, None, 0)
           refused("kexec_file_load", (320, 294), 0, 0, 0, None, 0)
           refused("landlock_create_ruleset", (444, 444), None, 0, 1)
           refused("modify_ldt", (154, None), 0, None, 0)
           """), allowed=OK),
    attack("keys", "uses the kernel's key rings",
           system_calls("""
           refused("keyctl", (250, 219), 0, -3, 1)
           refused("add_key", (248, 217), b"user", b"x", b"y", 1, -3)
           refused("request_key", (249, 218), b"user", b"x", None, -3)
           """), allowed=OK),
    attack("machine", "sets the clock, the host's name, and reboots",
           system_calls("""
           refused("clock_settime", (227, 112), 0, ctypes.create_string_buffer(16))
           refused("settimeofday", (164, 170), ctypes.create_string_buffer(16), None)
           refused("adjtimex", (159, 171), ctypes.create_string_buffer(208))
           refused("sethostname", (170, 161), b"x", 1)
           refused("setdomainname", (171, 162), b"x", 1)
           refused("reboot", (169, 142), 0xfee1dead, 672274793, 0x01234567, None)
           refused("syslog", (103, 116), 3, ctypes.create_string_buffer(16), 16)
           refused("acct", (163, 89), None)
           refused("vhangup", (153, 58))
           refused("iopl", (172, None), 3)
           refused("ioperm", (173, None), 0, 1, 1)
           refused("personality", (135, 92), 0x40000)
           refused("lookup_dcookie", (212, 18), 0, None, 0)
           """), allowed=OK),
    attack("files-by-handle", "opens files by handle and makes devices",
           system_calls("""
           refused("open_by_handle_at", (304, 265), 0, None, 0)
           refused("name_to_handle_at", (303, 264), -100, b"/", None, None, 0)
           refused("mknod", (133, None), b"x", 0o20666, 259)
           refused("mknodat", (259, 33), -100, b"x", 0o20666, 259)
           refused("setxattr", (188, 5), b".", b"user.x", b"y", 1, 0)
           refused("chown", (92, None), b".", 0, 0)
           refused("fchownat", (260, 54), -100, b".", 0, 0, 0)
           """), allowed=OK),
    attack("foreign-calls", "makes system calls of the x32 interface",
           system_calls("""
           if COLUMN == 0:
               refused("x32 getpid", (0x40000000 + 39, None))
               refused("x32 ptrace", (0x40000000 + 521, None))
               refused("old call", (0x40000000 + 512, None))
           """), allowed={OK, KILLED}),
    attack("unknown-calls", "makes unknown system calls",
           system_calls("""
           refused("future call", (600, 600))
           refused("impossible call", (100_000, 100_000))
           """), allowed=OK),
    attack("foreign-interrupt", "makes a 32-bit system call by int 0x80",
           """
           import ctypes, mmap, os
           if os.uname().machine == "x86_64":
               page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
               page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, getpid; int 0x80; ret
               call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
               result = call()
               print("ESCAPED" if result > 0 else result)
           """, allowed={OK, KILLED}),
    attack("sockets", "opens sockets of every family",
           """
           import socket
           for family in range(46):
               for kind in (1, 2, 3, 5):
                   try:
                       socket.socket(family, kind)
                       print("ESCAPED", family, kind)
                   except OSError:
                       pass
           try:
               socket.socketpair()
               print("ESCAPED")
           except OSError:
               pass
           """, allowed=OK),
    attack("network", "resolves names and connects to the metadata service",
           """
           import socket
           for attempt in (lambda: socket.create_connection(("169.254.169.254", 80), 0.1),
                           lambda: socket.create_connection(("127.0.0.1", 80), 0.1),
                           lambda: socket.gethostbyname("example.com"),
                           lambda: socket.getaddrinfo("example.com", 80)):
               try:
                   attempt()
                   print("ESCAPED")
               except OSError:
                   pass
           """, allowed=OK),
    attack("engine-socket", "talks to the Docker engine",
           "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('/var/run/docker.sock')\nprint('ESCAPED')",
           allowed=EXCEPTION),
    attack("shell-network", "uses a shell's network device",
           "import os\nos.system('echo ESC''APED > /dev/tcp/127.0.0.1/80; curl -s http://169.254.169.254/ && echo ESC''APED')",
           allowed={OK, EXCEPTION}),
    attack("run-written-program", "runs a program that it wrote",
           "import os\nopen('x', 'wb').write(open('/bin/true', 'rb').read() if os.path.exists('/bin/true') else b'#!/bin/sh')\n"
           "os.chmod('x', 0o755)\nos.execv('./x', ['x'])", allowed=EXCEPTION),
    attack("run-interpreter", "becomes another program",
           "import os, sys\nos.execv(sys.executable or '/usr/bin/python3', ['python', '-c', 'print(\"ESC\" \"APED\")'])",
           allowed=EXCEPTION),
    attack("load-written-library", "loads a library that it wrote",
           "import ctypes, os, glob, mpmath, numpy\nsource = glob.glob(os.path.dirname(numpy.__file__) + '/**/*.so', recursive=True)[0]\n"
           "open('x.so', 'wb').write(open(source, 'rb').read(4 << 20))\nctypes.CDLL('./x.so')\nprint('ESCAPED')", allowed=EXCEPTION),
    attack("links-out", "makes links to what the host or the supervisor might follow",
           "import os\nos.symlink('/etc/shadow', 'a')\nos.symlink('/', 'b')\nos.symlink('a', 'c')\nos.symlink('loop', 'loop')\n"
           "os.mkdir('d')\nos.symlink('/tmp', 'd/up')", allowed=OK),
    attack("hard-link-out", "hard-links files that are not its own",
           "import os\nfor p in ('/etc/passwd', '/usr/bin/python3', os.__file__):\n"
           "    try: os.link(p, 'x'); print('ESCAPED')\n    except OSError: pass", allowed=OK),
    attack("kernel-switches", "writes to the kernel's switches",
           """
           for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/self/oom_score_adj",
                        "/proc/sys/vm/drop_caches", "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent",
                        "/sys/fs/cgroup/cgroup.procs", "/sys/kernel/uevent_helper", "/proc/self/uid_map", "/proc/self/setgroups",
                        "/proc/self/attr/current", "/proc/acpi/wakeup", "/proc/bus/pci/devices"):
               try:
                   with open(path, "w") as file:
                       file.write("0")
                   print("ESCAPED", path)
               except OSError:
                   pass
           """, allowed=OK),
    attack("raise-limits", "raises its own limits",
           """
           import resource
           for name in ("AS", "CPU", "NPROC", "NOFILE", "FSIZE", "CORE", "MEMLOCK", "STACK", "DATA", "RTPRIO", "NICE"):
               limit = getattr(resource, "RLIMIT_" + name, None)
               if limit is None:
                   continue
               hard = resource.getrlimit(limit)[1]
               for wanted in (-1, hard + 1):
                   try:
                       resource.setrlimit(limit, (wanted, wanted))
                       if resource.getrlimit(limit) != (hard, hard):
                           print("ESCAPED", name)
                   except (ValueError, OSError, OverflowError):
                       pass
           """, allowed=OK),
    attack("priority", "takes priority over others",
           """
           import os
           for attempt in (lambda: os.nice(-10), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)),
                           lambda: os.sched_setaffinity(0, {0}), lambda: os.setpriority(os.PRIO_USER, 0, -20)):
               try:
                   attempt()
                   print("ESCAPED")
               except OSError:
                   pass
           """, allowed=OK),
    attack("terminal", "takes and writes to a terminal",
           "import fcntl, os\nfor p in ('/dev/tty', '/dev/console', '/dev/ptmx', '/dev/pts/ptmx', '/dev/pts/0'):\n"
           "    try: os.open(p, os.O_RDWR); print('ESCAPED', p)\n    except OSError: pass\n"
           "for fd in (0, 1, 2):\n    try: fcntl.ioctl(fd, 0x5412, b'x'); print('ESCAPED')\n    except OSError: pass", allowed=OK),
    attack("imports-of-the-host", "imports what the host has installed",
           "import importlib\nfor n in ('torch', 'transformers', 'vllm', 'genprm', 'docker', 'requests', 'openai', 'sandbox', 'pip'):\n"
           "    try: importlib.import_module(n); print('ESCAPED', n)\n    except (ImportError, OSError): pass", allowed={OK}),
    attack("side-effects-of-sympify", "has sympy evaluate a string that runs code",
           "import sympy\nprint(sympy.sympify('__import__(\"os\").getuid()'))", allowed={OK, EXCEPTION}),
    attack("chance", "depends on time, host and chance, to give a different answer each time",
           "import socket, time, os, random, uuid\nprint(time.tzname, hash('a'), random.random(), os.uname().nodename)",
           allowed={OK, EXIT}),
)  # fmt: skip
