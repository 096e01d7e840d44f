# ruff: noqa: E501
"""Attacks on the sandbox's reports and their readers."""

from .model import EXCEPTION, EXIT, INVALID_CODE, KILLED, OK, TIMEOUT, attack

FIND = """
import json, os, struct, sys
frame = sys._getframe()
while frame.f_back is not None and "nonce" not in frame.f_locals:
    frame = frame.f_back
nonce = frame.f_locals.get("nonce")
def report(message):
    data = json.dumps(message).encode()
    os.write(4, struct.pack(">I", len(data)) + data)
"""
"""Finds the session's trusted code by walking the stack, for attacks that impersonate it."""

PROTOCOL = (
    attack("fake-frame", "prints a reply of the supervisor",
           """
           import json, struct, sys
           reply = json.dumps({"id": 1, "status": "ok", "stdout": "ESC" "APED", "error": None, "duration_s": 0.0,
                               "truncated": 0}).encode()
           sys.stdout.flush()
           sys.stdout.buffer.write(struct.pack(">I", len(reply)) + reply)
           raise ValueError("the truth")
           """.replace('"ESC" "APED"', '"forged"'), allowed=EXCEPTION),
    attack("fake-multiplex", "prints headers of the engine's stream",
           "import os\nfor _ in range(100): os.write(1, b'\\x01\\0\\0\\0\\0\\0\\0\\x10' * 16)", allowed=OK),
    attack("frames-everywhere", "writes replies to every descriptor",
           """
           import os
           payload = b'{"id":1,"status":"ok"}'
           for fd in range(3, 64):
               try:
                   os.write(fd, len(payload).to_bytes(4, "big") + payload)
               except OSError:
                   pass
           while True: pass
           """, allowed=KILLED),
    attack("garbage-report", "writes garbage to its report pipe",
           "import os\nwhile True: os.write(4, b'\\xff' * 4096)", allowed=KILLED),
    attack("long-report", "announces a report of two gigabytes",
           "import os\nos.write(4, b'\\x7f\\xff\\xff\\xff')\nwhile True: os.write(4, b'x' * 4096)", allowed=KILLED),
    attack("forged-success", "finds the nonce of its success report, and sends it before it fails",
           FIND + 'report({"outcome": "ok", "error": None, "nonce": nonce})\nos._exit(1)',
           # Snippet and reporting code share a process: it can claim success, as it could simply end normally.
           allowed={OK, EXIT, KILLED}),
    attack("forged-timeout", "claims a status that only the supervisor may give",
           FIND + 'report({"outcome": "timeout", "error": None, "nonce": nonce})\nimport time; time.sleep(1000)',
           allowed=KILLED),
    attack("forged-runner", "claims to be another process, so that a kill hits that one",
           "x = 1",
           FIND + 'for pid in (1, os.getppid(), 2, 7, 8):\n    report({"runner": pid, "nonce": nonce})\nwhile True: pass',
           allowed=KILLED),
    attack("forged-runner-first", "claims another process before the snippet that is not a clone",
           FIND + 'report({"runner": 1, "nonce": nonce})\nwhile True: pass', allowed=KILLED),
    attack("ok-and-run-on", "reports its end and keeps running",
           FIND + 'report({"outcome": "ok", "error": None, "nonce": nonce})\nwhile True: print("x")', allowed=OK),
    attack("eat-commands", "reads the next command itself",
           "import os, threading\nthreading.Thread(target=os.read, args=(3, 1 << 20), daemon=True).start()",
           "print(1)", allowed={OK, TIMEOUT, KILLED, EXIT}),
    attack("replace-machinery", "replaces the functions that make its own reports",
           "import os, json, struct\nos.write = json.dumps = len = lambda *a, **k: 1 / 0", "print(1)",
           allowed={OK, TIMEOUT, KILLED, EXIT, EXCEPTION}),
    attack("parent-descriptors", "opens its parent's descriptors",
           """
           import os
           for pid in {os.getppid(), 1, 7, 8}:
               for fd in range(32):
                   for flags in (os.O_RDONLY, os.O_WRONLY):
                       try:
                           os.open(f"/proc/{pid}/fd/{fd}", flags)
                           print("ESCAPED", pid, fd)
                       except OSError:
                           pass
           """, allowed=OK),
    attack("pickle", "prints a pickle that runs code when loaded",
           "import pickle, os, sys\nclass R:\n    def __reduce__(self): return os.system, ('echo pwned',)\n"
           "sys.stdout.buffer.write(pickle.dumps(R()))\nprint(pickle.dumps(R()))", allowed=OK),
    attack("evil-exception", "raises an exception that misbehaves in str()",
           "class E(Exception):\n    def __str__(self): raise SystemExit\n    __repr__ = __str__\nraise E", allowed=EXCEPTION),
    attack("endless-exception", "raises an exception whose text never ends",
           "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E", allowed=TIMEOUT),
    attack("huge-exception", "raises an exception of ten megabytes", "raise ValueError('x' * 10_000_000)", allowed=EXCEPTION),
    attack("exception-name", "raises an exception with a name of a megabyte",
           "raise type('E' * 1_000_000, (Exception,), {})()", allowed=EXCEPTION),
    attack("exception-name-object", "raises an exception whose name is not a name",
           "class M(type):\n    __name__ = property(lambda s: 1 / 0)\nclass E(Exception, metaclass=M): pass\nraise E",
           allowed=EXCEPTION),
    attack("evil-string", "raises with a subclass of str",
           "class S(str):\n    def __format__(self, s): raise SystemExit\n    def __len__(self): return -1\n"
           "class E(Exception):\n    def __str__(self): return S('a')\nraise E", allowed={EXCEPTION, KILLED}),
    attack("json-oddities", "prints what JSON parsers disagree about",
           "print('NaN Infinity 1e999 -0', '9' * 5000, '{\"a\":1,\"a\":2}', '[' * 10_000)", allowed=OK),
    attack("nan", "raises with not-a-number", "raise ValueError(float('nan'), float('inf'), 10 ** 4000)",
           allowed=EXCEPTION),
    attack("control-characters", "prints NUL, escape sequences, surrogates, separators",
           "print('\\0\\x1b[2J\\x1b]0;x\\x07\\ud800\\udfff\\ufeff\\u2028\\r\\x85')", allowed=OK),
    attack("invalid-utf8", "prints bytes that are not text",
           "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 16)", allowed=OK),
    attack("surrogate-exception", "raises with a lone surrogate", "raise ValueError('\\ud800\\0')", allowed=EXCEPTION),
    attack("code-with-nul", "is code with NUL", "x = 1\0", allowed=INVALID_CODE),
    attack("code-with-surrogate", "is code with a lone surrogate", "x = '\ud800'", allowed=INVALID_CODE),
    attack("code-end-marks", "closes quotes that a template might have opened",
           "'''\n''' + \"\"\"\n\"\"\"\n# END\n\x1a\n```\n[Code Output]", allowed={INVALID_CODE, EXCEPTION}),
    attack("deep-code", "is code nested a hundred thousand deep", "(" * 100_000 + ")" * 100_000,
           allowed={INVALID_CODE, KILLED}),
    attack("deep-operators", "is an expression that crashes compilers", "-" * 200_000 + "1",
           allowed={INVALID_CODE, KILLED, TIMEOUT}),
    attack("huge-code", "is longer than the sandbox accepts", "#" + "x" * (1 << 20), allowed=INVALID_CODE),
    attack("slow-code", "takes long to compile", "x = " + "+".join(["1"] * 150_000),
           allowed={OK, INVALID_CODE, TIMEOUT, KILLED}),
    attack("constant-folding", "has the compiler compute a huge constant", "x = 10 ** 10 ** 10 if False else 1",
           allowed={OK, TIMEOUT, EXCEPTION}),
)  # fmt: skip
