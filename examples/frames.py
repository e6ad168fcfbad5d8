"""Frames of 100 MB from one process to another, without copies. Usage: python examples/frames.py [COUNT]

The producer draws each frame where it stays: in memory that both processes see. What it sends is a handle of some
bytes. A frame's memory is used again when the consumer has let go of it.
"""

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from modelmora import tensors

SHAPE = (3, 4320, 7716)  # 100 MB of uint8


def produce(path: Path, count: int) -> None:
    """Draws so many frames, and hands them over."""
    with tensors.connect(path) as session:
        for number in range(count):
            frame = session.empty(SHAPE, np.uint8)
            frame.numpy()[:] = number
            session.send(frame, tag=f"frame {number}".encode(), timeout_s=30)
        session.wait(timeout_s=30)  # until the consumer has seen all, and closes


def consume(listener: tensors.Listener, count: int) -> None:
    """Looks at so many frames."""
    with listener.accept(timeout_s=30) as session:
        begun = time.perf_counter()
        for number in range(count):
            with session.receive(timeout_s=30) as frame:
                middle = frame.numpy()[:, 2000:2100, 3000:3100]  # a view: still no copy
                print(f"{frame.tag.decode()}: {frame.nbytes / 1e6:.0f} MB, mean of its middle {middle.mean():.0f}")
                assert middle.mean() == number  # noqa: S101 - what the example shows
                del middle  # who keeps a view keeps the frame
        print(f"{count / (time.perf_counter() - begun):.0f} frames a second, drawing included")


def main() -> None:
    """Runs both."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.sock"
        with tensors.Listener(path) as listener:
            producer = multiprocessing.get_context("spawn").Process(target=produce, args=(path, count))
            producer.start()
            consume(listener, count)
            producer.join(timeout=30)


if __name__ == "__main__":
    main()
