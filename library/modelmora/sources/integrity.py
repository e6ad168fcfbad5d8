"""What exactly was fetched: a sha256 for each file, held against the pins of the deployment.

Hashing reads every byte, 0.05 to 0.2 s for 90 MB. A file that was hashed before and is the same inode with the same
size, modification and change time is not read again: the cache folder remembers. Nobody can set a change time without
setting the clock, so a swapped file is seen. What changed within the last seconds is not remembered: a file may change
twice in one tick.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import structlog

from modelmora.errors import ChecksumMismatch, SourceNotFound

_FIELD: Final = "spec.model.integrity.sha256"
_SETTLED_S: Final = 3.0
# By whatever engine they are read: a user's own may load others than safetensors.
_WEIGHTS: Final = frozenset(
    {".safetensors", ".gguf", ".ggml", ".onnx", ".onnx_data", ".npz", ".npy", ".h5", ".keras", ".msgpack", ".tflite"}
    | {".pb", ".bin", ".pt", ".pt2", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
)
_log = structlog.get_logger(__name__)

Record = dict[str, tuple[list[int], str]]


@dataclass(frozen=True, slots=True)
class Pins:
    """The sha256 that files must have, by path in the folder; `unpinned` says what becomes of weights without one."""

    sha256: Mapping[str, str] = field(default_factory=dict)
    unpinned: str = "Allow"  # Allow, Warn or Refuse


@dataclass(frozen=True, slots=True)
class Manifest:
    """Every file of a folder, by path in it, with its sha256; sizes in bytes."""

    sha256: Mapping[str, str]
    bytes: int

    @property
    def digest(self) -> str:
        """One name for all of it: sha256 of the sorted lines "sha256  path"."""
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(self.sha256.items()))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def hash_folder(folder: Path, *, cache_dir: Path, now: float) -> Manifest:
    """Hashes every file that is not hidden; unchanged ones come from the record in `cache_dir`. `now`: Unix time.

    Raises:
        SourceNotFound: there is no file, or one cannot be read.
    """
    record_file = cache_dir / "digests" / f"{hashlib.sha256(str(folder).encode()).hexdigest()}.json"
    known, record, size = _read_record(record_file), Record(), 0
    try:
        for path in _files(folder):
            stat = path.stat()
            identity = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            name = path.relative_to(folder).as_posix()
            remembered = known.get(name)
            digest = remembered[1] if remembered and remembered[0] == identity else _sha256(path)
            record[name] = (identity, digest)
            size += stat.st_size
    except OSError as error:
        raise SourceNotFound(
            f"a file of the model cannot be read: {error}", file=str(folder), remedy="let the worker's user read it"
        ) from error
    if not record:
        raise SourceNotFound(f"there is no file in {folder}", file=str(folder), remedy="name the folder of the model")
    _write_record(record_file, record, now)
    return Manifest({name: digest for name, (_, digest) in record.items()}, size)


def verify(manifest: Manifest, pins: Pins, *, model_id: str = "") -> None:
    """Holds the files against their pins.

    Raises:
        ChecksumMismatch: a file is another one, is missing, or is not pinned where that is refused.
    """
    pinned = {str(PurePosixPath(name)): expected for name, expected in pins.sha256.items()}
    for name, expected in sorted(pinned.items()):
        got = manifest.sha256.get(name, "")
        if got != expected.lower():
            problem = f"has the sha256 {got}" if got else "is missing"
            raise ChecksumMismatch(
                f"the file {name} of model {model_id} {problem}; sha256 {expected} is pinned",
                model_id=model_id,
                field=f"{_FIELD}[{name!r}]",
                file=name,
                remedy="find out who changed it; pin the new sha256 only if the change is yours",
            )
    weights = (name for name in manifest.sha256 if PurePosixPath(name).suffix.lower() in _WEIGHTS)
    unpinned = sorted(name for name in weights if name not in pinned)
    if unpinned and pins.unpinned == "Refuse":
        raise ChecksumMismatch(
            f"{len(unpinned)} weight files of model {model_id} have no pinned sha256: {', '.join(unpinned[:5])}",
            model_id=model_id,
            field=_FIELD,
            file=unpinned[0],
            remedy="pin them all, or set spec.model.integrity.unpinned to Warn or Allow",
        )
    if unpinned and pins.unpinned == "Warn":
        _log.warning("source is not pinned", model=model_id, files=unpinned)


def _files(folder: Path) -> Iterator[Path]:
    """Links are followed, as an engine follows them; a folder that contains itself is entered once."""
    entered = set[str]()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in entered else sorted(name for name in folders if not name.startswith("."))
        visible = (Path(root, name) for name in sorted(names) if not name.startswith(".") and real not in entered)
        # No sockets and no pipes, which nobody may ever write to; a link that leads nowhere is told as unreadable.
        yield from (path for path in visible if path.is_file() or not path.exists())
        entered.add(real)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_record(file: Path) -> Record:
    try:
        raw = json.loads(file.read_text())
        return {str(name): ([int(n) for n in identity], str(digest)) for name, (identity, digest) in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # absent, or half of another release's: everything is hashed again


def _write_record(file: Path, record: Record, now: float) -> None:
    """Only an optimisation: a read-only cache folder is no reason to fail."""
    newest_ns = int((now - _SETTLED_S) * 1e9)
    settled = {name: entry for name, entry in record.items() if max(entry[0][3:]) < newest_ns}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as temporary:
            json.dump(settled, temporary)
        Path(temporary.name).replace(file)
    except OSError as error:
        _log.warning("digests are not kept", folder=str(file.parent), cause=str(error))
