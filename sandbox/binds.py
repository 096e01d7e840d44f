"""What bubblewrap mounts in its guest: this interpreter, four packages, and the libraries they need.

Everything appears under /opt/sandbox, so that no path of the host is visible inside.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .results import SandboxError

PACKAGES = ("numpy", "scipy", "sympy", "mpmath")
ROOT = "/opt/sandbox"
_LEFT_OUT = ("_tkinter", "_ssl", "_sqlite3", "_curses", "_curses_panel", "readline", "nis", "_dbm", "_gdbm", "_crypt")
"""Extension modules of the standard library that need libraries no snippet uses."""
_LDD_LINE = re.compile(r"^\s*(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths outside and inside."""

    interpreter: str
    """Path inside."""
    binds: tuple[tuple[str, str], ...]
    """(outside, inside), all read-only."""
    hidden: tuple[str, ...]
    """Folders inside to cover: site-packages within the standard library."""
    environment: tuple[tuple[str, str], ...]


@functools.cache
def find_layout() -> Layout:
    """Finds the paths of the running interpreter and the installed packages.

    Raises:
        SandboxError: a package is missing.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable = Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))
    standard = Path(os.__file__).resolve().parent
    inside_standard = f"{ROOT}/python/{sys.platlibdir}/{version}"
    binds = [(str(executable), f"{ROOT}/python/bin/{version}"), (str(standard), inside_standard)]
    if sys.platlibdir != "lib":  # the pure half of the library is looked for in lib
        binds.append((str(standard), f"{ROOT}/python/lib/{version}"))
    extension_modules = sorted((standard / "lib-dynload").glob("*.so"))
    libraries = [executable, *(path for path in extension_modules if path.name.split(".")[0] not in _LEFT_OUT)]
    hidden = [
        f"{inside}/{name}"
        for _, inside in binds[1:]
        for name in ("site-packages", "dist-packages")
        if (standard / name).is_dir()
    ]
    for name in PACKAGES:
        folder = _package_folder(name)
        binds.append((str(folder), f"{ROOT}/site/{name}"))
        bundled = folder.parent / f"{name}.libs"
        if bundled.is_dir():
            binds.append((str(bundled), f"{ROOT}/site/{name}.libs"))
            libraries += sorted(bundled.iterdir())
        libraries += sorted(folder.rglob("*.so"))
    bundled_roots = tuple(outside for outside, _ in binds[1:])
    for name, path in _shared_libraries(libraries, bundled_roots).items():
        binds.append((path, f"{ROOT}/lib/{name}" if not _is_loader(name) else name))
    binds.append((str(Path(__file__).parent / "guest"), f"{ROOT}/guest"))
    return Layout(
        interpreter=f"{ROOT}/python/bin/{version}",
        binds=tuple(binds),
        hidden=tuple(hidden),
        environment=(
            ("LD_LIBRARY_PATH", f"{ROOT}/lib"),
            ("PYTHONPATH", f"{ROOT}:{ROOT}/site"),
            ("PYTHONHOME", f"{ROOT}/python"),
        ),
    )


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SandboxError(
            f"the bubblewrap sandbox needs {name!r} in this environment, which is not installed: "
            f"pip install {' '.join(PACKAGES)}"
        )
    return Path(spec.submodule_search_locations[0]).resolve()


def _is_loader(name: str) -> bool:
    return name.startswith("/")


def _shared_libraries(files: list[Path], bundled: tuple[str, ...]) -> dict[str, str]:
    """Libraries from outside the bundled folders that these files need, by name; the loader by its full path.

    `ldd` runs on only one file for each needed name: it takes several milliseconds per file.
    """
    have = {path.name for path in files}
    witnesses: dict[str, Path] = {}
    for path in files:
        for name in _needed(path):
            if name not in have:
                witnesses.setdefault(name, path)
    asked = {files[0], *witnesses.values()}
    # Without this process's environment: an LD_PRELOAD (vLLM sets one) would be listed as needed.
    clean = {"PATH": os.defpath, "LC_ALL": "C"}
    ldd = ["ldd", *map(str, sorted(asked))]
    answer = subprocess.run(ldd, capture_output=True, text=True, check=False, env=clean).stdout
    found: dict[str, str] = {}
    for name, path in _LDD_LINE.findall(answer):
        resolved = os.path.realpath(path)
        if not name:
            found[path] = resolved  # the loader, at the very path that the interpreter names
        elif not resolved.startswith(bundled):
            found[name] = resolved
    return found


def _needed(path: Path) -> list[str]:
    """DT_NEEDED entries of a 64-bit ELF file; none for other files."""
    data = path.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        return []
    (headers,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, headers + index * size)
        if kind == 1:
            loads.append((address, offset, length))
        elif kind == 2:
            dynamic = (offset, length)
    if dynamic is None:
        return []
    names: list[int] = []
    strings = 0
    for position in range(dynamic[0], dynamic[0] + dynamic[1], 16):
        tag, value = struct.unpack_from("<qQ", data, position)
        if tag == 1:
            names.append(value)
        elif tag == 5:
            strings = next(value - start + offset for start, offset, length in loads if start <= value < start + length)
        elif tag == 0:
            break
    return [data[strings + name : data.index(b"\0", strings + name)].decode() for name in names]
