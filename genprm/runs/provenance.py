"""Identifies the weights and versions of a run, so that runs can be compared."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

_WHOLE = 1 << 30
"""Files up to this many bytes are hashed completely; larger ones by name, size and time."""
_KINDS = {".json", ".safetensors", ".bin", ".model", ".jinja"}


def package_version(*names: str) -> str | None:
    """The version of the first installed distribution of these."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def weights_of(model: str | Path, revision: str | None = None) -> str | None:
    """Identifies the weights of a model loaded from a folder or from Hugging Face.

    Args:
        model: a folder, or the name of a repository on Hugging Face.
        revision: branch, tag or commit of the repository.

    Returns:
        `sha256:...` over the files of a folder, `commit:...` of a repository in the local cache, or None for anything
        else,
            such as a model on a server.
    """
    folder = Path(model)
    if folder.is_dir():
        return f"sha256:{_hash_folder(folder)}"
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(str(model), "config.json", revision=revision)
    except HFValidationError:
        return None
    # The cache keeps a file under snapshots/COMMIT/.
    return f"commit:{Path(cached).parent.name}" if isinstance(cached, str) else None


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix not in _KINDS or not file.is_file():
            continue
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0".encode())
        if status.st_size <= _WHOLE:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        else:
            digest.update(str(status.st_mtime_ns).encode())
    return digest.hexdigest()
