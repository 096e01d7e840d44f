"""Sets up the supervisor's privileges, and drops those needed only at its start."""

from __future__ import annotations

import os
import resource

from . import kernel
from .seccomp import guest_filter
from .zygote import SCRATCH

_SCRATCH = "size=16m,nr_inodes=4k,mode=711"


def take(proc: str) -> tuple[bool, int]:
    """Whether sessions can have their own users, and the version of Landlock.

    Raises:
        RuntimeError: this kernel lacks what the guest relies on, as gVisor does.
    """
    _require_kernel(proc)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kernel.become_subreaper()
    kernel.hide_memory()
    setuid, setgid, kill = 7, 6, 5
    keep = frozenset({setuid, setgid, kill})
    have = kernel.capabilities(proc)
    own_users = os.getuid() == 0 and keep <= have and not _in_user_namespace(proc)
    if own_users:
        if kernel.CAP_SYS_ADMIN in have:  # bubblewrap cannot limit the number of files, a mount can
            kernel.mount_tmpfs(SCRATCH, _SCRATCH)
        # A session may enter its own folder but not list the others. Some versions of runc give a tmpfs the mode of the
        # image's folder, whatever mode is requested.
        os.chmod(SCRATCH, 0o711)
        kernel.drop_capabilities(keep)
        kernel.hide_memory()
    program = guest_filter(namespaces=not own_users)
    kernel.no_new_privileges()
    kernel.install_filter(kernel.Filter(len(program) // 8, program))
    return own_users, kernel.landlock_version()


def _require_kernel(proc: str) -> None:
    lacking: list[str] = []
    if not _gives_clones_to_the_parent():
        lacking.append("clone with CLONE_PARENT")
    if not os.path.exists(f"{proc}/self/task/{os.getpid()}/children"):
        lacking.append("/proc/PID/task/TID/children")
    if lacking:
        raise RuntimeError(
            f"this kernel lacks {' and '.join(lacking)}, which keep sessions apart; gVisor lacks them too"
        )


_NOT_GIVEN = 255
"""Exit status, where other errors exit with their errno."""


def _gives_clones_to_the_parent() -> bool:
    middle = os.fork()
    if middle == 0:
        try:
            if clone := kernel.clone_alone(kernel.CLONE_PARENT):
                os.waitpid(clone, 0)
                os._exit(_NOT_GIVEN)
        except ChildProcessError:  # it is the grandparent's
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or _NOT_GIVEN)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(middle, 0)[1])
    if code == _NOT_GIVEN:
        return False
    if code:
        raise RuntimeError(f"a process cannot be cloned here: {os.strerror(code) if code > 0 else f'signal {-code}'}")
    os.waitpid(-1, 0)
    return True


def _in_user_namespace(proc: str) -> bool:
    """Whether only one user is mapped here."""
    with open(f"{proc}/self/uid_map", encoding="ascii") as file:
        return sum(int(line.split()[2]) for line in file) < 60000
