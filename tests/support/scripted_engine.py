"""An engine without torch that does what its parameters say. Travels to the worker as one of runtime.files."""

import os
import time
from pathlib import Path

import numpy as np


class Scripted:
    """Answers with its pid and how many batches it saw.

    config.parameters: log (a file that each event is appended to), failLoads (so many loads fail first),
    loadSeconds, failTests (the test inference fails), failsFor (a text that it fails on).
    Request parameters: sleep (seconds), fail (a message), die (ends the process), nan (answers NaN).
    """

    def __init__(self, context):
        self.settings = dict(context.parameters)
        self.calls = 0
        self._log("load")
        time.sleep(self.settings.get("loadSeconds", 0))
        if self._count("load") <= self.settings.get("failLoads", 0):
            raise RuntimeError("the scripted load fails")

    def infer(self, batch):
        return [self._answer(entry) for entry in batch]

    def _answer(self, entry):
        self.calls += 1
        wishes = entry.parameters
        self._log("infer " + " ".join(entry.texts()))
        if self.settings.get("failTests"):
            raise RuntimeError("the scripted inference fails")
        if self.settings.get("failsFor") in entry.texts():
            raise RuntimeError("the scripted engine does not like this text")
        if "die" in wishes:
            os.kill(os.getpid(), 9)
        time.sleep(wishes.get("sleep", 0))
        if "fail" in wishes:
            raise ValueError(wishes["fail"])
        fill = float("nan") if "nan" in wishes else float(len(entry.texts()))
        return {"text": entry.texts(), "pid": np.array([os.getpid()]), "numbers": np.array([[fill]], dtype="float32")}

    def _log(self, event):
        if log := self.settings.get("log"):
            with Path(log).open("a") as file:
                file.write(event + "\n")

    def _count(self, event):
        log = self.settings.get("log")
        return Path(log).read_text().splitlines().count(event) if log else 0
