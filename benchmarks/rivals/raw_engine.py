"""The engine alone, in a loop: no server can be faster. Measures when it is asked to.

python raw_engine.py MODEL_FOLDER
Each line of its input is "batch size, seconds, texts" as JSON; each line of its output, engine passes a second.
"""

import json
import sys
import time
from pathlib import Path

from modelmora_worker.engines import EngineContext, EngineInput
from modelmora_worker.engines.embedding import EmbeddingEngine


def main() -> None:
    context = EngineContext(folder=Path(sys.argv[1]), model_id="minilm", version="1.0.0", task="txt2embed")
    engine = EmbeddingEngine(context)
    for line in sys.stdin:
        size, seconds, texts = json.loads(line)
        print(json.dumps(_passes_per_second(engine, size, seconds, texts)), flush=True)


def _passes_per_second(engine: EmbeddingEngine, size: int, seconds: float, texts: list[str]) -> float:
    entries = [EngineInput({"text": [text]}) for text in texts]
    batches = [entries[at : at + size] for at in range(0, len(entries) - size + 1, size)]
    engine.infer(batches[0])
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        engine.infer(batches[done % len(batches)])
        done += 1
    return done / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
