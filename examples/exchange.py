"""One tensor, seen by NumPy and by PyTorch, in two processes, and never copied. Usage: python examples/exchange.py"""

import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import torch

from modelmora import tensors


def other(path: Path) -> None:
    """Computes with PyTorch, and sends back what PyTorch wrote."""
    with tensors.connect(path) as session:
        given = session.receive(timeout_s=60)
        weights = torch.from_dlpack(given)  # the sender's memory itself, not to be written
        answer = session.empty(weights.shape, np.float32)
        torch.mul(weights, 2, out=torch.from_dlpack(answer))  # PyTorch writes where the answer stays
        session.send(answer)
        session.wait(timeout_s=60)


def main() -> None:
    """Sends an array, and shows that all of them are one memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exchange.sock"
        with tensors.Listener(path) as listener:
            process = multiprocessing.get_context("spawn").Process(target=other, args=(path,))
            process.start()
            with listener.accept(timeout_s=60) as session:
                tensor = session.put(np.arange(6, dtype=np.float32).reshape(2, 3))
                as_torch = torch.from_dlpack(tensor)
                as_torch[0, 0] = 10  # seen by NumPy, too
                print("NumPy sees ", tensor.numpy().tolist())
                session.send(tensor)
                print("doubled    ", session.receive(timeout_s=60).numpy().tolist())
            process.join(timeout=60)


if __name__ == "__main__":
    main()
