"""The Docker sandbox's image, tagged with a hash of its contents."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import docker
import docker.errors

from .results import SandboxError

DEFAULT_BASE = "python:3.11-slim-bookworm"
LOCAL_BASE = "genprm-sandbox-base:bookworm"
"""The image built by scripts/build-sandbox-base, for machines without a registry."""
BASE_VARIABLE = "GENPRM_SANDBOX_BASE"
REPOSITORY = "genprm-sandbox"
_HERE = Path(__file__).parent
CONTENT_LABEL = "genprm.sandbox.content"


def find_image(client: docker.DockerClient) -> str | None:
    """The tag of this guest version's image if it has been built."""
    base = _local_base(client)
    if base is not None:
        tag = _tag(base)
        try:
            client.images.get(tag)
        except docker.errors.ImageNotFound:
            return None
        return tag
    # The base may have been removed since, or never have been tagged here.
    found = client.images.list(filters={"label": f"{CONTENT_LABEL}={content()}"})
    return next((tag for image in found for tag in image.tags), None)


def ensure_image(client: docker.DockerClient) -> str:
    """The image for this version of the guest, built if needed.

    Raises:
        SandboxError: it has no base, or cannot be built.
    """
    if (tag := find_image(client)) is not None:
        return tag
    base = _local_base(client) or _pull_base(client)
    tag = _tag(base)
    try:
        client.images.build(
            fileobj=_context(),
            custom_context=True,
            dockerfile="Dockerfile.sandbox",
            buildargs={"BASE": base[0]},
            labels={CONTENT_LABEL: content()},
            tag=tag,
            rm=True,
            forcerm=True,
        )
    except docker.errors.BuildError as error:
        log = "".join(str(line.get("stream", "")) for line in error.build_log)
        raise SandboxError(f"the sandbox image cannot be built from {base[0]!r}: {error}\n{log[-2000:]}") from None
    except docker.errors.APIError as error:
        raise SandboxError(f"the sandbox image cannot be built from {base[0]!r}: {error}") from None
    return tag


def why_no_image(client: docker.DockerClient) -> str | None:
    """Why the image might not get built, or None if its base is on this machine."""
    if _local_base(client) is not None:
        return None
    name = os.environ.get(BASE_VARIABLE, DEFAULT_BASE)
    return f"not built yet, and its base {name!r} has to be pulled; without a registry run scripts/build-sandbox-base"


def _local_base(client: docker.DockerClient) -> tuple[str, str] | None:
    """Name and id of the base image, if it is on this machine."""
    named = os.environ.get(BASE_VARIABLE)
    for name in (named,) if named else (DEFAULT_BASE, LOCAL_BASE):
        try:
            image = client.images.get(name)
        except docker.errors.ImageNotFound:
            continue
        return name, str(image.id)
    return None


def _pull_base(client: docker.DockerClient) -> tuple[str, str]:
    name = os.environ.get(BASE_VARIABLE, DEFAULT_BASE)
    try:
        image = client.images.pull(name)
    except docker.errors.DockerException as error:
        raise SandboxError(
            f"the base image {name!r} of the sandbox is not on this machine and cannot be pulled ({error}); run "
            f"scripts/build-sandbox-base, or set {BASE_VARIABLE} to an image that has Python 3.11 or later"
        ) from None
    return name, str(image.id)


def _tag(base: tuple[str, str]) -> str:
    digest = hashlib.sha256(f"{content()}\n{base[1]}".encode()).hexdigest()
    return f"{REPOSITORY}:{digest[:16]}"


def content() -> str:
    """A digest of all that the image is made from, but for its base."""
    return hashlib.sha256(_context().getvalue()).hexdigest()


def unpack_context(folder: Path) -> None:
    """Put what a build sees into a folder."""
    with tarfile.open(fileobj=_context()) as tar:
        tar.extractall(folder, filter="data")


def _context() -> io.BytesIO:
    """The build context as a tar that depends only on the files' contents."""
    files = [_HERE / "Dockerfile.sandbox", _HERE / "requirements.txt", *sorted((_HERE / "guest").glob("*.py"))]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in files:
            data = path.read_bytes()
            info = tarfile.TarInfo(str(path.relative_to(_HERE)))
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer
