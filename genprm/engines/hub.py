"""Files of a model: from its folder, from the local cache of the Hugging Face Hub, or from the Hub.

Each process checks once, with a short timeout, whether the Hub can be reached. If not, all libraries in this process
are set to offline mode, so that none of them retries for minutes.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path

from genprm.engines.errors import EngineError

PROBE_S = 5.0
"""Timeout of the probe, in seconds."""
_PROBED = "config.json"


def find_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """Path of a model's file; None if the model has no such file, or it cannot be fetched.

    Args:
        model: a folder, or a model id.
        name: the file's name.
        revision: the model's revision on the Hub.
    """
    if Path(model).is_dir():
        file = Path(model) / name
        return file if file.is_file() else None
    if not _is_model_id(model):
        return None
    from huggingface_hub import hf_hub_download

    unreachable()
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except Exception:
        # The libraries behind the Hub raise what their HTTP clients raise; `check_model` finds the reason.
        return None


def check_model(model: str, revision: str | None = None) -> None:
    """Checks that a model can be found, before anything expensive starts.

    Args:
        model: a folder, or a model id.
        revision: the model's revision on the Hub.

    Raises:
        EngineError: there is no such folder, model or revision, the model is gated, or the Hub cannot be reached and
            the model is not in the cache. The message says what to do.
    """
    if (folder := Path(model)).is_dir():
        if not (folder / _PROBED).is_file():
            raise EngineError(f"the folder {model!r} holds no {_PROBED}, so it is not a model folder")
        return
    if not _is_model_id(model):
        raise EngineError(f"there is no folder {model!r}, and it is not a model id like GenPRM/GenPRM-7B")
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(try_to_load_from_cache(model, _PROBED, revision=revision), str):
        unreachable()
        return
    at = f" at the revision {revision!r}" if revision else ""
    if reason := unreachable():
        raise EngineError(
            f"the model {model!r}{at} is neither a folder nor in the cache {constants.HF_HUB_CACHE}, and {reason}. "
            f"Fetch it where the network reaches the Hub (`hf download {model}`) and point HF_HOME at that cache, "
            "or set HF_ENDPOINT to a mirror or HTTPS_PROXY to a proxy."
        )
    page = f"{constants.ENDPOINT}/{model}"
    try:
        hf_hub_download(model, _PROBED, revision=revision)
    except GatedRepoError:
        raise EngineError(
            f"the model {model!r} is gated: accept its licence at {page}, and set HF_TOKEN to a token of that account"
        ) from None
    except RevisionNotFoundError:
        raise EngineError(f"the model {model!r} has no revision {revision!r}; its branches and tags: {page}") from None
    except RepositoryNotFoundError:
        raise EngineError(
            f"there is no folder {model!r} here and no model {model!r} at {constants.ENDPOINT} (for a private model, "
            "set HF_TOKEN)"
        ) from None
    except EntryNotFoundError:
        raise EngineError(f"the repository {model!r}{at} holds no {_PROBED}, so it is not a model: {page}") from None
    except Exception as error:
        raise EngineError(f"the model {model!r} could not be fetched from {constants.ENDPOINT}: {error}") from error


def unreachable() -> str | None:
    """Why the Hub cannot be reached, as the end of a sentence; None if it can."""
    from huggingface_hub import constants

    return _probe(constants.ENDPOINT)


@cache
def _probe(endpoint: str) -> str | None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids access to the Hub"
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PROBE_S).close()
    except urllib.error.HTTPError:
        return None  # Any answer means that it is reachable.
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        return f"the Hub at {endpoint} cannot be reached ({reason})"
    return None


def _is_model_id(model: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True
