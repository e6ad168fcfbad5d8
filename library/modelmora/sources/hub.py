"""A model of the Hugging Face Hub, by the Hub's own library: its cache, its resumed downloads, its retries.

Only what can be loaded without executing anything is downloaded: safetensors, configurations, tokenizers. A revision
that was downloaded in whole stays usable while the Hub cannot be reached.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from modelmora.errors import FetchFailed, MissingDependency, ModelMoraError, SourceNotFound
from modelmora.sources.uris import FIELD

if TYPE_CHECKING:
    from types import ModuleType

PATTERNS: Final = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.spm")
# Other formats of the same weights, which a model's repository holds beside them.
EXCLUDED: Final = ("onnx/*", "openvino/*", "*/onnx/*", "*/openvino/*")
_FORBIDDEN: Final = (401, 403)


@dataclass(frozen=True, slots=True)
class Request:
    name: str
    revision: str
    endpoint: str
    token: str = field(repr=False)
    model_id: str


def download(request: Request, *, cache_dir: Path) -> tuple[Path, str]:
    """The folder of the snapshot, and its commit.

    Raises:
        SourceNotFound: no such model or revision, or nothing in it that can be loaded safely.
        FetchFailed: the Hub cannot be reached, or refuses.
        MissingDependency: huggingface_hub is not installed.
    """
    library = _library()
    try:
        snapshot = library.snapshot_download(
            request.name,
            revision=request.revision or None,
            cache_dir=str(cache_dir),
            endpoint=request.endpoint or None,
            # What this machine has for the Hub (HF_TOKEN) is not for whatever server a manifest names.
            token=request.token or (False if request.endpoint else None),
            allow_patterns=list(PATTERNS),
            ignore_patterns=list(EXCLUDED),
        )
    except (OSError, ValueError) as error:  # all of its errors are one of the two
        raise _translated(error, library, request) from error
    folder = Path(snapshot)
    return folder, folder.name


def _library() -> "ModuleType":
    try:
        import huggingface_hub  # noqa: PLC0415 - 0.3 s that a client must not pay
        import huggingface_hub.errors  # noqa: PLC0415 - as above
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined] # noqa: PLC0415 - as above
    except ImportError as error:
        raise MissingDependency(
            "huggingface_hub is not installed, and hf:// needs it", remedy="pip install 'modelmora[worker]'"
        ) from error
    disable_progress_bars()
    return huggingface_hub


def _translated(error: Exception, library: "ModuleType", request: Request) -> ModelMoraError:
    kinds = library.errors
    shown = f"{request.name}@{request.revision}" if request.revision else request.name
    where = request.endpoint or "the Hugging Face Hub"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, kinds.RevisionNotFoundError):
        return SourceNotFound(
            f"{where} has no revision {request.revision!r} of {request.name}",
            model_id=request.model_id,
            field=FIELD,
            remedy="name a branch, a tag or a commit that exists",
        )
    if isinstance(error, kinds.GatedRepoError) or status in _FORBIDDEN:
        return FetchFailed(
            f"{where} does not give {shown} to this caller",
            model_id=request.model_id,
            field="spec.model.source.secretRef",
            remedy="accept the model's terms there, and give a token that may read it (HF_TOKEN on this machine)",
        )
    if isinstance(error, kinds.RepositoryNotFoundError):
        return SourceNotFound(
            f"{where} has no model {request.name}, or does not show it to this caller",
            model_id=request.model_id,
            field=FIELD,
            remedy="check the name; for a private model, give a token that may read it (HF_TOKEN on this machine)",
        )
    return FetchFailed(
        f"{shown} could not be fetched from {where}: {_first_line(error)}",
        model_id=request.model_id,
        field=FIELD,
        endpoint=request.endpoint,
        remedy="check the network and the free space of the cache folder; it is tried again",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
