"""Every error that a user can meet, as one tree.

ModelMoraError
├── RequestError              the caller can mend the request
│   ├── MalformedRequest      bytes that are no request at all
│   ├── InvalidRequest        a field that is missing, wrong or out of bounds
│   ├── PayloadTooLarge
│   ├── ModelNotFound
│   ├── ModelBusy             asked to unload what is in use, or must not be unloaded
│   ├── DeadlineExceeded
│   └── RequestCancelled
├── UnavailableError          the same request may succeed later
│   ├── QueueFull
│   ├── RateLimited           more requests than the model's rateLimit admits
│   ├── MemoryFull            the router holds as many bytes of requests as it may
│   ├── ColdStartTimeout
│   ├── ModelUnhealthy        its last load failed; `reason` says how
│   ├── ModelSuspended
│   ├── WorkerUnavailable     the worker ended, or cannot be reached at `endpoint`
│   ├── InsufficientMemory    a model or an arena that does not fit into what there is, refused before it is tried
│   ├── QuotaExceeded         more shared memory than one session may have
│   ├── SharedMemoryUnavailable  this machine has none, or it is switched off: bytes still travel
│   ├── PeerGone              the process at the other end of a session ended
│   └── ServerUnavailable     the server is draining, or cannot be reached at `endpoint`
├── ServerError
│   ├── InferenceFailed       the engine raised on this input
│   ├── FeatureUnavailable    named in the protocol, not built in this release
│   └── InternalError         a bug of ours; the log has the traceback
├── LoadError                 a worker cannot serve its model; the class name is the reason in conditions
│   ├── InvalidSource         a URI that cannot be understood, or a scheme that this release cannot fetch
│   ├── SourceNotFound
│   ├── FetchFailed
│   ├── ChecksumMismatch
│   ├── UnsafeWeights         pickle weights or remote code that the deployment does not allow by name
│   ├── InvalidEngine         no such engine, or one that does not have the methods of an engine
│   ├── MissingDependency
│   ├── LoadFailed
│   └── HealthInferenceFailed
└── SetupError                a program cannot start, or a manifest cannot be used
    ├── InvalidManifest       `file` and `field` say where
    ├── InvalidSettings
    ├── AddressInUse
    └── AlreadyRunning        another server owns this state directory

An error carries fields, not codes of protocols: `modelmora.wire.status` holds the one table from the leaves to gRPC and
HTTP.
"""

import re
from dataclasses import dataclass, fields
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorContext:
    """Where an error belongs and what to do about it; empty = not known. Times in seconds."""

    model_id: str = ""
    field: str = ""  # path of the field that is wrong, as the user wrote it
    remedy: str = ""  # what to do, a sentence in the imperative
    reason: str = ""  # CamelCase, as in conditions
    endpoint: str = ""  # the address that did not answer
    file: str = ""
    request_id: str = ""
    retry_after_s: float | None = None
    needed_bytes: int | None = None  # how much there should have been room for


class ModelMoraError(Exception):
    """The root. Only leaves are raised."""

    def __init__(  # noqa: PLR0913 - the fields of ErrorContext, so that a raise stays one plain call
        self,
        message: str,
        *,
        model_id: str = "",
        field: str = "",
        remedy: str = "",
        reason: str = "",
        endpoint: str = "",
        file: str = "",
        request_id: str = "",
        retry_after_s: float | None = None,
        needed_bytes: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.context = ErrorContext(
            model_id=model_id,
            field=field,
            remedy=remedy,
            reason=reason,
            endpoint=endpoint,
            file=file,
            request_id=request_id,
            retry_after_s=retry_after_s,
            needed_bytes=needed_bytes,
        )

    def __str__(self) -> str:
        """What a traceback shows: also what to do."""
        return f"{self.message} ({self.context.remedy})" if self.context.remedy else self.message

    @property
    def code(self) -> str:
        """The stable word for programs, for example MODEL_NOT_FOUND."""
        return code_of(type(self))

    def located(self, **context: str | float | None) -> Self:
        """The same error with those fields of its context filled in that are still empty."""
        known = {f.name: getattr(self.context, f.name) for f in fields(ErrorContext)}
        missing = {name: value for name, value in context.items() if not known[name]}
        return type(self)(self.message, **(known | missing))

    def __reduce__(self) -> tuple[object, ...]:
        context = {f.name: getattr(self.context, f.name) for f in fields(ErrorContext)}
        return (_restore, (type(self), self.message, context))


def _restore(kind: type[ModelMoraError], message: str, context: dict[str, str | float | None]) -> ModelMoraError:
    return kind(message, **context)  # type: ignore[arg-type]  # names are those of the fields


class RequestError(ModelMoraError):
    """The caller can mend the request."""


class MalformedRequest(RequestError):
    """Bytes that are no request at all."""


class InvalidRequest(RequestError):
    """A field that is missing, wrong or out of bounds."""


class PayloadTooLarge(RequestError):
    """More bytes than one request may have."""


class ModelNotFound(RequestError):
    """No model of this id, or no such version of it, in this namespace."""


class ModelBusy(RequestError):
    """Asked to unload what is in use, or must not be unloaded."""


class DeadlineExceeded(RequestError):
    """The request's own time ended before its answer."""


class RequestCancelled(RequestError):
    """The caller left."""


class UnavailableError(ModelMoraError):
    """The same request may succeed later."""


class QueueFull(UnavailableError):
    """As many requests wait for the model as its queue.maxLength allows."""


class RateLimited(UnavailableError):
    """More requests than the model's rateLimit admits."""


class MemoryFull(UnavailableError):
    """The router holds as many bytes of requests as it may at this priority."""


class ColdStartTimeout(UnavailableError):
    """The model did not wake within queue.coldStartTimeoutSeconds."""


class ModelUnhealthy(UnavailableError):
    """The model's last load failed; `reason` says how."""


class ModelSuspended(UnavailableError):
    """spec.suspend is true."""


class WorkerUnavailable(UnavailableError):
    """The worker ended, or cannot be reached at `endpoint`."""


class InsufficientMemory(UnavailableError):
    """A model or an arena that does not fit into what there is, refused before it is tried."""


class QuotaExceeded(UnavailableError):
    """More shared memory than one session may have."""


class SharedMemoryUnavailable(UnavailableError):
    """This machine has none, or it is switched off: bytes still travel."""


class PeerGone(UnavailableError):
    """The process at the other end of a session ended."""


class ServerUnavailable(UnavailableError):
    """The server is draining, or cannot be reached at `endpoint`."""


class ServerError(ModelMoraError):
    """Not the caller's fault."""


class InferenceFailed(ServerError):
    """The engine raised on this input."""


class FeatureUnavailable(ServerError):
    """Named in the protocol, not built in this release."""


class InternalError(ServerError):
    """A bug of ours; the log has the traceback."""


class LoadError(ModelMoraError):
    """A worker cannot serve its model; the class name is the reason in conditions."""


class InvalidSource(LoadError):
    """A URI that cannot be understood, or a scheme that this release cannot fetch."""


class SourceNotFound(LoadError):
    """Nothing is there."""


class FetchFailed(LoadError):
    """The files could not be brought here, for now."""


class ChecksumMismatch(LoadError):
    """A file is not the one that was asked for."""


class UnsafeWeights(LoadError):
    """Pickle weights or remote code that the deployment does not allow by name."""


class InvalidEngine(LoadError):
    """No such engine, or a class without the methods of one."""


class MissingDependency(LoadError):
    """A package that the engine needs is not installed."""


class LoadFailed(LoadError):
    """The files are there, but no model could be made of them."""


class HealthInferenceFailed(LoadError):
    """The model was loaded, but its test inference failed."""


class SetupError(ModelMoraError):
    """A program cannot start, or a manifest cannot be used."""


class InvalidManifest(SetupError):
    """A manifest that cannot be used; `file` and `field` say where."""


class InvalidSettings(SetupError):
    """A setting that is wrong; `field` says which."""


class AddressInUse(SetupError):
    """Another program listens there."""


class AlreadyRunning(SetupError):
    """Another server owns this state directory."""


def leaves(root: type[ModelMoraError] = ModelMoraError) -> list[type[ModelMoraError]]:
    """All classes of the tree that may be raised, in the order of the drawing above."""
    below = [leaf for child in root.__subclasses__() for leaf in leaves(child)]
    return below or [root]


def code_of(kind: type[ModelMoraError]) -> str:
    """MODEL_NOT_FOUND for ModelNotFound."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).upper()
