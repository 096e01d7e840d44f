"""A Hub model that cannot be fetched: one probe, one sentence."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from genprm.engines import EngineError, hub, load_engine
from genprm.engines.tokenizer import Tokenizer


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does for unavailable models; `org/open` exists."""

    asked: list[str]

    def do_HEAD(self):
        self.server.asked.append(self.path)
        codes = {"gated": "GatedRepo", "missing": "RepoNotFound", "open": "RevisionNotFound", "empty": "EntryNotFound"}
        name = self.path.split("/")[2] if self.path.count("/") > 1 else ""
        if name in codes:
            self.send_response(403 if name == "gated" else 404)
            self.send_header("X-Error-Code", codes[name])
            self.send_header("X-Repo-Commit", "0" * 40)
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args):
        pass


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    hub._probe.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield tmp_path
    hub._probe.cache_clear()


@pytest.fixture
def server(empty_cache, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    yield server
    server.shutdown()
    server.server_close()


async def test_without_a_network_one_sentence_at_once(empty_cache, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(EngineError) as caught:
        await load_engine("transformers", "GenPRM/GenPRM-7B")
    assert time.monotonic() - started < 30
    said = str(caught.value)
    assert "'GenPRM/GenPRM-7B' is neither a folder nor in the cache" in said
    assert "http://127.0.0.1:9 cannot be reached (" in said
    assert "hf download GenPRM/GenPRM-7B" in said
    assert "HF_ENDPOINT" in said
    # Later calls do not use the network.
    assert constants.HF_HUB_OFFLINE
    with pytest.raises(EngineError, match="cannot be reached"):
        Tokenizer.from_pretrained("org/other")


async def test_offline_is_named_where_it_was_asked_for(empty_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EngineError, match="HF_HUB_OFFLINE forbids"):
        hub.check_model("org/model")


@pytest.mark.parametrize(
    ("model", "revision", "said"),
    [
        ("org/gated", None, "accept its licence at http.*/org/gated, and set HF_TOKEN"),
        ("org/missing", None, "no model 'org/missing' at http"),
        ("org/open", "v9", "has no revision 'v9'"),
        ("org/empty", None, r"holds no config\.json"),
        ("./nowhere/at-all", None, "there is no folder './nowhere/at-all'"),
    ],
)
async def test_what_is_wrong_is_named(server, model, revision, said):
    with pytest.raises(EngineError, match=said):
        await load_engine("transformers", model, revision=revision)
    assert len([path for path in server.asked if path.startswith("/org/")]) <= 1


async def test_a_folder_that_is_no_models(tmp_path):
    with pytest.raises(EngineError, match=r"holds no config\.json"):
        await load_engine("transformers", str(tmp_path))
