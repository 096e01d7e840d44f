"""A policy behind OpenAI's chat completions, whose answers are given."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def policy(answers: Mapping[str, str]) -> Iterator[str]:
    """Serves it. An answer is found by the last message; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = answers[asked["messages"][-1]["content"]]
            deltas = ({"role": "assistant", "content": text}, None), ({}, "stop")
            chunks: list[dict[str, Any]] = [
                {
                    "id": "chatcmpl-1",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": asked["model"],
                    "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
                }
                for delta, reason in deltas
            ]
            body = "".join(f"data: {one}\n\n" for one in (*map(json.dumps, chunks), "[DONE]")).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()
