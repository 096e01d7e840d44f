"""The sessions' writable folders, which are emptied after every snippet."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat as modes
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """Usage of a file system."""

    kb: int
    inodes: int


def in_use(path: str) -> Held:
    """Usage of a folder's file system, including deleted files that are still open or mapped."""
    found = os.statvfs(path)
    return Held((found.f_blocks - found.f_bfree) * found.f_frsize >> 10, found.f_files - found.f_ffree)


def unlink_files(folder: str) -> int:
    """Removes everything except folders; returns how many entries are left."""
    names = os.listdir(folder)
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
    return len(os.listdir(folder)) if names else 0


def empty(folder: str) -> None:
    """Removes everything, as the user who owns the folders in it.

    Folders are made accessible to their owner, and their contents are moved up before they are removed. So paths stay
    short at any nesting depth, without recursion. Links are not followed.
    """
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mark, moved = secrets.token_hex(8), 0  # a name that no snippet can have used
    try:
        while names := os.listdir(top):
            for name in names:
                if not _is_folder(name, top):
                    os.unlink(name, dir_fd=top)
                    continue
                os.chmod(name, 0o700, dir_fd=top)  # may be inaccessible, even to its owner
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
                try:
                    for entry in os.listdir(inner):
                        if not _is_folder(entry, inner):
                            os.unlink(entry, dir_fd=inner)
                            continue
                        os.chmod(entry, 0o700, dir_fd=inner)  # moving a folder writes to it
                        os.rename(entry, f"{mark}{moved:x}", src_dir_fd=inner, dst_dir_fd=top)
                        moved += 1
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _is_folder(name: str, where: int) -> bool:
    return modes.S_ISDIR(os.stat(name, dir_fd=where, follow_symlinks=False).st_mode)
