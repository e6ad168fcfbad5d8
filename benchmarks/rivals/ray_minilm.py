"""MiniLM on Ray Serve, with its dynamic batching.

python ray_minilm.py PORT MODEL_FOLDER THREADS
"""

import sys

import ray
from minilm import MAX_SIZE, MAX_WAIT_S, Minilm
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=1000, ray_actor_options={"num_cpus": 1})
class Served:
    def __init__(self, folder: str, threads: int) -> None:
        self.engine = Minilm(folder, threads)

    @serve.batch(max_batch_size=MAX_SIZE, batch_wait_timeout_s=MAX_WAIT_S)
    async def embed(self, texts: list[str]) -> list[object]:
        return list(self.engine.embed(texts))

    async def __call__(self, request: Request) -> dict[str, object]:
        vector = await self.embed((await request.json())["text"])
        return {"embedding": vector.tolist()}


if __name__ == "__main__":
    port, folder, threads = sys.argv[1:]
    ray.init(num_cpus=4, object_store_memory=200_000_000, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(Served.bind(folder, int(threads)), blocking=True)
