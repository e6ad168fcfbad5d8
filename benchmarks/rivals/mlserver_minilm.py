"""MiniLM on MLServer, with its adaptive batching and one worker process, over the Open Inference Protocol.

python mlserver_minilm.py PORT MODEL_FOLDER THREADS
"""

import asyncio
import os
import sys
from pathlib import Path

from minilm import MAX_SIZE, MAX_WAIT_S
from minilm import Minilm as Engine
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

_FOLDER, _THREADS = "RIVAL_FOLDER", "RIVAL_THREADS"  # how the worker process is told


class Minilm(MLModel):
    async def load(self) -> bool:
        self.engine = Engine(os.environ[_FOLDER], int(os.environ[_THREADS]))  # noqa: TID251 - no settings of ours here
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("embedding", self.engine.embed(texts))
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main(port: int) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=port + 1,
        metrics_port=port + 2,
        parallel_workers=1,
        debug=False,
        metrics_endpoint=None,
    )
    model = ModelSettings(
        name="minilm",
        implementation="mlserver_minilm.Minilm",
        max_batch_size=MAX_SIZE,
        max_batch_time=MAX_WAIT_S,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    os.environ[_FOLDER], os.environ[_THREADS] = sys.argv[2:]  # noqa: TID251 - as above
    os.chdir(Path(__file__).resolve().parent)
    asyncio.run(main(int(sys.argv[1])))
