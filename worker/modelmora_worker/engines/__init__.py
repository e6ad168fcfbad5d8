"""What an engine is: a class that loads a model when it is constructed, and answers batches.

    class Shout:
        def __init__(self, context: EngineContext) -> None: ...
        def infer(self, batch: Sequence[EngineInput]) -> Sequence[Outputs]: ...

Both are called on one thread, the device thread, one call at a time. To unload, the process ends. An exception of
`infer` fails the entries of that batch and nothing else; a batch of several entries is tried again in halves first, so
that one bad input fails alone. An engine that knows which entry is wrong puts an error of `modelmora.errors` in that
entry's place in the answer instead.

Two things are offered, not asked for. An engine with a method `count_tokens` (see `TokenCounter`) gets batches whose
tokens are within spec.batching.maxTokens. An engine that takes long for an entry may look at `EngineInput.wanted` in
between, and stop: whatever it then answers for that entry, nobody reads it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from pydantic import JsonValue

from modelmora.errors import InvalidRequest, ModelMoraError
from modelmora.wire.values import InputValue, Items

Outputs: TypeAlias = Mapping[str, InputValue]
"""By name: texts, encoded images as bytes, or an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """What an engine is told when it is to load its model."""

    folder: Path  # the model's files, fetched and verified
    model_id: str
    version: str
    task: str
    device: str = "auto"  # auto, cpu or cuda, as the deployment says
    dtype: str = "auto"  # auto, float32, float16 or bfloat16
    max_length: int | None = None  # tokens
    max_tokens: int | None = None  # in one pass of the model, padding included; spec.batching.maxTokens
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)  # spec.model.config.parameters


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class EngineInput:
    """One request: values by name, each of them many, and its parameters."""

    values: Mapping[str, Items]
    parameters: Mapping[str, JsonValue] = field(default_factory=dict)
    wanted: Callable[[], bool] = field(default=_always, compare=False, repr=False)
    """Whether anybody still waits for the answer; cheap, and once False it stays so."""

    def texts(self, name: str = "text") -> list[str]:
        """The texts of that name, at least one.

        Raises:
            InvalidRequest: they are missing, empty, or no texts.
        """
        value = self.values.get(name)
        if value is None:
            raise InvalidRequest(
                f"input.{name} is missing", field=f"input.{name}", remedy=f'send {{"{name}": "…"}} or a list of texts'
            )
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InvalidRequest(
                f"input.{name} is no text", field=f"input.{name}", remedy="send one text or a list of texts"
            )
        if not value:
            raise InvalidRequest(f"input.{name} is empty", field=f"input.{name}", remedy="send at least one text")
        return [str(item) for item in value]


class Engine(Protocol):
    """See the module: constructed once, then asked batch after batch on the same thread."""

    def __init__(self, context: EngineContext) -> None:
        """Loads the model; returns when it can answer.

        Raises:
            LoadError: it cannot be loaded; any other exception becomes LoadFailed with its text.
        """

    def infer(self, batch: Sequence[EngineInput]) -> Sequence[Outputs | ModelMoraError]:
        """One answer, or one error, for each entry, in order."""
        ...


@runtime_checkable
class TokenCounter(Protocol):
    """What an engine may offer besides."""

    def count_tokens(self, batch: Sequence[EngineInput]) -> Sequence[int]:
        """The tokens of the longest text of each entry, in order; 0 where that cannot be said. On the device thread."""
        ...


__all__ = ["Engine", "EngineContext", "EngineInput", "Outputs", "TokenCounter"]
