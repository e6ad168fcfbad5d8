"""An engine without torch for pods, which behaves as badly as its parameters say. Travels as one of runtime.files."""

import os
import threading
import time

import numpy as np

_HOLD = []


class Cluster:
    """Answers with its pod and process.

    config.parameters: loadFails (a message), loadExits (an exit code), loadSeconds, loadBytes (memory to take),
    testFails (a message), failsFor (a text that it fails on), exitAfterSeconds.
    Request parameters: sleep (seconds), exit (an exit code).
    """

    def __init__(self, context):
        wishes = context.parameters
        self.wishes = wishes
        time.sleep(wishes.get("loadSeconds", 0))
        if "loadFails" in wishes:
            raise RuntimeError(wishes["loadFails"])
        if "loadExits" in wishes:
            os._exit(int(wishes["loadExits"]))
        if "loadBytes" in wishes:
            _HOLD.append(np.ones(int(wishes["loadBytes"]), dtype="uint8"))
        if "exitAfterSeconds" in wishes:
            threading.Timer(wishes["exitAfterSeconds"], os._exit, [41]).start()

    def infer(self, batch):
        return [self._answer(entry) for entry in batch]

    def _answer(self, entry):
        if "testFails" in self.wishes:
            raise RuntimeError(self.wishes["testFails"])
        if self.wishes.get("failsFor") in entry.texts():
            raise RuntimeError("the engine does not like this text")
        if "exit" in entry.parameters:
            os._exit(int(entry.parameters["exit"]))
        time.sleep(entry.parameters.get("sleep", 0))
        return {"text": entry.texts(), "pod": [os.uname().nodename], "numbers": np.ones((1, 1), dtype="float32")}
