"""The servers that Manta is measured beside, each as its documentation sets it up: same weights, one sentence a request.

`python benchmarks/serve_peers.py SYSTEM MODEL PORT THREADS` serves until SIGTERM. Every one reads `{"texts": ["…"]}`, so that all
are sent the same bytes.
"""

import os
import signal
import sys
import threading
from typing import Annotated, Any

from fastapi import Body, FastAPI

try:
    import litserve as ls
except ImportError:
    ls = None

HOST = "127.0.0.1"
BATCH_SIZE, BATCH_WAIT_S = 32, 0.005
MANY_REQUESTS = 200
Texts = Annotated[list[str], Body(embed=True)]


def classifier(model: str, num_threads: int) -> Any:
    """A `text-classification` pipeline."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(num_threads)
    return pipeline("text-classification", model=model)


class LitClassifier(ls.LitAPI if ls else object):  # type: ignore[misc]
    """Texts in, labels out; in the worker process that LitServe starts."""

    model: str
    num_threads: int

    def setup(self, device: str) -> None:
        """Load the model."""
        self.classify = classifier(self.model, self.num_threads)

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # LitServe would take an annotation for a query parameter
        """The text of a request."""
        return request["texts"][0]

    def predict(self, texts: list[str]) -> Any:
        """The answers to a batch."""
        return self.classify(texts, batch_size=len(texts), truncation=True)

    def encode_response(self, output: Any) -> Any:
        """The answer to a request."""
        return output


def fastapi_pipeline(model: str, port: int, num_threads: int) -> None:
    """The usual first service: FastAPI and a pipeline, which runs in FastAPI's threads."""
    import uvicorn

    api, classify = FastAPI(), classifier(model, num_threads)

    @api.post("/predict")
    def predict(texts: Texts) -> Any:
        return classify(texts, truncation=True)

    uvicorn.run(api, host=HOST, port=port, access_log=False, log_level="error")


def litserve(model: str, port: int, num_threads: int) -> None:
    """A LitAPI with batching (https://lightning.ai/docs/litserve/features/batching); 32 and 5 ms did best of what was tried."""
    if ls is None:
        sys.exit("litserve is not installed; it comes with the [bench] extra: pip install -e '.[bench]'")
    api = LitClassifier(max_batch_size=BATCH_SIZE, batch_timeout=BATCH_WAIT_S)
    api.model, api.num_threads = model, num_threads
    ls.LitServer(api, accelerator="cpu").run(host=HOST, port=port, generate_client_file=False, log_level="error")


def ray_serve_documented(model: str, port: int, num_threads: int) -> None:
    """An ingress that calls a model with `@serve.batch` (https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html)."""
    from ray import serve

    api = FastAPI()

    @serve.deployment(max_ongoing_requests=MANY_REQUESTS, ray_actor_options={"num_cpus": num_threads})
    class Model:
        def __init__(self) -> None:
            self.classify = classifier(model, num_threads)

        @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
        async def predict(self, texts: list[str]) -> list[Any]:
            return list(self.classify(texts, batch_size=len(texts), truncation=True))

    @serve.deployment(max_ongoing_requests=MANY_REQUESTS, ray_actor_options={"num_cpus": 0})
    @serve.ingress(api)
    class Ingress:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        @api.post("/predict")
        async def predict(self, texts: Texts) -> Any:
            return await self.handle.predict.remote(texts[0])

    serve_on_ray(Ingress.bind(Model.bind()), port, num_threads)  # type: ignore[attr-defined]


def nothing_uvicorn(model: str, port: int, num_threads: int) -> None:
    """An endpoint that does nothing."""
    import uvicorn

    uvicorn.run(nothing(), host=HOST, port=port, access_log=False, log_level="error")


def nothing_ray_serve(model: str, port: int, num_threads: int) -> None:
    """An endpoint that does nothing, behind Ray's proxy."""
    from ray import serve

    made = serve.deployment(max_ongoing_requests=MANY_REQUESTS)(serve.ingress(nothing)())
    serve_on_ray(made.bind(), port, num_threads)


def nothing() -> Any:
    """An API whose one path has nothing to do."""
    api = FastAPI()

    @api.post("/predict")
    async def predict() -> dict[str, str]:
        return {"status": "ok"}

    return api


def serve_on_ray(application: Any, port: int, num_threads: int) -> None:
    """Run a Ray Serve application on a cluster of its own until SIGTERM."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    ray.init(address="local", num_cpus=num_threads, include_dashboard=False, log_to_driver=False)
    serve.start(http_options=HTTPOptions(host=HOST, port=port))
    serve.run(application, route_prefix="/")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


PEERS = {
    "fastapi-pipeline": fastapi_pipeline,
    "litserve": litserve,
    "ray-serve-documented": ray_serve_documented,
    "nothing-uvicorn": nothing_uvicorn,
    "nothing-ray-serve": nothing_ray_serve,
}

if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    system, folder, listens_on, threads = sys.argv[1:]
    PEERS[system](folder, int(listens_on), int(threads))
