"""The folders that sessions may write to: emptied after every snippet, whatever was made in them."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat as modes
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Held:
    """What a file system has in use."""

    kb: int
    inodes: int


def in_use(path: str) -> Held:
    """Of the file system that a folder is on: files that are open or mapped count, also when they were deleted."""
    found = os.statvfs(path)
    return Held((found.f_blocks - found.f_bfree) * found.f_frsize >> 10, found.f_files - found.f_ffree)


def unlink_files(folder: str) -> int:
    """Remove everything but folders; how many entries are left."""
    names = os.listdir(folder)
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, name))
    return len(os.listdir(folder)) if names else 0


def empty(folder: str) -> None:
    """Remove everything, as the user whom the folders in it belong to.

    Folders are opened to their owner, and what is in them is moved up before they are removed. So no path grows long
    however deep they were nested, and nothing recurses. Nothing here follows a link.
    """
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mark, moved = secrets.token_hex(8), 0  # a name that no snippet can have taken
    try:
        while names := os.listdir(top):
            for name in names:
                if not _is_folder(name, top):
                    os.unlink(name, dir_fd=top)
                    continue
                os.chmod(name, 0o700, dir_fd=top)  # may be locked, even against its owner
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
