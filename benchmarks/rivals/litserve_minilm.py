"""MiniLM on LitServe, with its batching and its faster queue.

python litserve_minilm.py PORT MODEL_FOLDER THREADS
"""

import sys

import litserve
from minilm import MAX_SIZE, MAX_WAIT_S, Minilm


class Api(litserve.LitAPI):
    def setup(self, _device: str) -> None:
        self.engine = Minilm(sys.argv[2], int(sys.argv[3]))

    def decode_request(self, request: dict[str, str]) -> str:
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        return list(inputs)

    def predict(self, texts: list[str]) -> object:
        return self.engine.embed(texts)

    def unbatch(self, output: list[object]) -> list[object]:
        return list(output)

    def encode_response(self, output: object) -> dict[str, object]:
        return {"embedding": output.tolist()}  # type: ignore[attr-defined]  # a row of an array


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_SIZE, batch_timeout=MAX_WAIT_S)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="error", generate_client_file=False
    )
