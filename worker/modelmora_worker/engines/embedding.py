"""txt2embed: texts to vectors, on sentence-transformers; a folder without modules.json is read as a plain transformer
with mean pooling.

The texts of a batch are tokenized together (on the device thread: that is a hundredth of the work), and go through the
model in passes of texts of like length, so that padding is small; see `passes`.
The parameters of a request, with defaults from spec.model.config.parameters:

    normalize  true: vectors of length 1; false: as the model gives them (some models normalize by themselves)
    truncate   true: what is longer than the model's longest input is cut; false: it is refused
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from modelmora.errors import InferenceFailed, InvalidRequest, LoadFailed, ModelMoraError, UnsafeWeights
from modelmora_worker.engines import EngineContext, EngineInput, Outputs, completeness, devices, passes, weights

_INPUT: Final = "text"
_OUTPUT: Final = "embeddings"
_WINDOW: Final = 256  # texts that are tokenized at once
_PROBE: Final = "Which weights does an answer depend on?"
_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Vectors = npt.NDArray[np.float32]
Features = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a request wants its vectors."""

    normalize: bool = False
    truncate: bool = True


def parse_parameters(given: Mapping[str, JsonValue], defaults: Parameters, *, field: str = "parameters") -> Parameters:
    """The defaults, with what is given put over them.

    Raises:
        InvalidRequest: an unknown name, or a value that is not true or false.
    """
    for name, value in given.items():
        if name not in {"normalize", "truncate"}:
            raise InvalidRequest(
                f"the parameter {name!r} is unknown", field=f"{field}.{name}", remedy="use normalize or truncate"
            )
        if not isinstance(value, bool):
            raise InvalidRequest(
                f"the parameter {name} is {value!r}", field=f"{field}.{name}", remedy="give true or false"
            )
    return replace(defaults, **{name: bool(value) for name, value in given.items()})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one entry asks for, checked."""

    texts: list[str]
    parameters: Parameters
    wanted: Callable[[], bool]


class EmbeddingEngine:
    """Loads on construction; see `modelmora_worker.engines.Engine`."""

    def __init__(self, context: EngineContext) -> None:
        weights.refuse_unsafe(context.folder, model_id=context.model_id)
        weights.check_readable(context.folder, model_id=context.model_id)
        self.device = devices.choose(context.device, model_id=context.model_id)
        self._defaults = _defaults(context)
        with completeness.recorded() as missing:
            self._model = _load(context, self.device)
        self._prompt: str = self._model.prompts.get(self._model.default_prompt_name or "") or ""
        completeness.refuse_incomplete(missing, lambda: self._vectors([_PROBE]), model_id=context.model_id)
        self._max_length = _limit_length(self._model, context)
        self._limits = (passes.CPU if self.device == "cpu" else passes.GPU).within(context.max_tokens)

    def infer(self, batch: Sequence[EngineInput]) -> list[Outputs | ModelMoraError]:
        """{"embeddings": float32 [texts, dimensions]} for each entry."""
        wanted = [self._checked(entry) for entry in batch]
        texts = [_Text(text, entry) for entry in wanted if isinstance(entry, Wanted) for text in entry.texts]
        with torch.inference_mode():
            vectors = self._embed(texts)
        answers: list[Outputs | ModelMoraError] = []
        start = 0
        for entry in wanted:
            if isinstance(entry, Wanted):
                answers.append(_answer(vectors[start : start + len(entry.texts)], entry.parameters))
                start += len(entry.texts)
            else:
                answers.append(entry)
        return answers

    def _checked(self, entry: EngineInput) -> Wanted | ModelMoraError:
        try:
            parameters = parse_parameters(entry.parameters, self._defaults)
            texts = entry.texts(_INPUT)
            _refuse_other_inputs(entry)
            _refuse_blank(texts)
            if not parameters.truncate:
                self._refuse_long(texts)
        except InvalidRequest as error:
            return error
        return Wanted(texts, parameters, entry.wanted)

    def _refuse_long(self, texts: list[str]) -> None:
        tokens = self._model.tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]
        for index, ids in enumerate(tokens):
            if len(ids) > self._max_length:
                raise InvalidRequest(
                    f"text {index} of input.text has {len(ids)} tokens; the model reads {self._max_length}",
                    field="input.text",
                    remedy="shorten it, or allow truncate: true",
                )

    def count_tokens(self, batch: Sequence[EngineInput]) -> list[int]:
        """Of the longest text of each entry, as far as the model reads it."""
        found = [entry.values.get(_INPUT) for entry in batch]
        texts = [
            [text for text in items if isinstance(text, str)] if isinstance(items, list) else [] for items in found
        ]
        counts = iter(self._lengths([text for items in texts for text in items]))
        return [max((next(counts) for _ in items), default=0) for items in texts]

    def _embed(self, texts: "list[_Text]") -> Vectors:
        """A vector for each, in order; of no meaning for those that nobody waits for any more."""
        vectors = np.zeros((len(texts), 0), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index].text))
        for begin in range(0, len(order), _WINDOW):
            window = order[begin : begin + _WINDOW]
            for places, features in self._passes([texts[index].text for index in window]):
                indices = [window[place] for place in places]
                if any(texts[index].entry.wanted() for index in indices):
                    found = self._forward(features).float().cpu().numpy()
                    if not vectors.size:
                        vectors = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
                    vectors[indices] = found
        return vectors

    def _passes(self, texts: list[str]) -> Iterator[tuple[list[int], Features]]:
        """What goes through the model together: the places of the texts, and what the model reads of them."""
        features = self._features(texts)
        if (lengths := _padded_lengths(features, len(texts))) is not None:
            for places in passes.cut(lengths, self._limits):
                yield places, _rows(features, places)
        else:
            for places in passes.cut(self._lengths(texts), self._limits):
                yield places, self._features([texts[place] for place in places])

    def _lengths(self, texts: list[str]) -> list[int]:
        """In tokens; 0 for a model whose tokenizer is of another kind than those of transformers."""
        tokenizer = self._model.tokenizer
        if not texts or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return [0] * len(texts)
        tokens = tokenizer([self._prompt + text for text in texts], padding=False, verbose=False)["input_ids"]
        return [min(len(ids), self._max_length) for ids in tokens]

    def _vectors(self, texts: list[str]) -> torch.Tensor:
        return self._forward(self._features(texts))

    def _features(self, texts: list[str]) -> Features:
        # This and forward, not encode(): it does the same for these arguments, and takes 0.9 ms more for each call.
        features: Features = self._model.preprocess(texts, prompt=self._prompt or None)
        return features

    def _forward(self, features: Features) -> torch.Tensor:
        on_device = {
            name: value.to(self.device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        vectors: torch.Tensor = self._model.forward(on_device)["sentence_embedding"]
        return vectors


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    entry: Wanted


def _padded_lengths(features: Features, texts: int) -> list[int] | None:
    """In tokens; None: they are not padded into one table (flash attention packs them, static models need none)."""
    mask = features.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or len(mask) != texts:  # noqa: PLR2004 - texts × tokens
        return None
    lengths: list[int] = mask.sum(dim=1).tolist()
    return lengths


def _rows(features: Features, places: list[int]) -> Features:
    """Of these texts alone, without the padding that only the others needed, on whichever side it is."""
    mask = features["attention_mask"]
    used = mask[places].any(dim=0).nonzero()
    columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(None)
    rows = dict(features)
    for name, value in features.items():
        if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(mask):
            rows[name] = value[places][:, columns] if value.shape[:2] == mask.shape else value[places]
    return rows


def _load(context: EngineContext, device: str) -> Any:  # noqa: ANN401 - sentence-transformers is not typed for mypy
    _quiet()
    dtype = _DTYPES.get(context.dtype, "auto")
    try:
        model = SentenceTransformer(
            str(context.folder),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": dtype},
        )
    except Exception as error:  # whatever its many libraries raise on files that are no model
        raise _load_error(error, context) from error
    return model.eval()


def _load_error(error: Exception, context: EngineContext) -> ModelMoraError:
    if "trust_remote_code" in str(error):
        return UnsafeWeights(
            f"model {context.model_id} can only be loaded by executing code of its own",
            model_id=context.model_id,
            file="config.json",
            remedy="use a model that the installed transformers know, or serve it by an engine of yours",
        )
    text = str(error).strip().splitlines() or [""]
    return LoadFailed(
        f"model {context.model_id} cannot be loaded: {type(error).__name__}: {text[0][:500]}",
        model_id=context.model_id,
        remedy="check that the folder holds a whole model for txt2embed; the worker's log has more",
    )


def _limit_length(model: Any, context: EngineContext) -> int:  # noqa: ANN401 - as in _load
    """The longest input in tokens: what the deployment says, else the model's own."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    positions = getattr(config, "max_position_embeddings", None) or context.max_length
    if context.max_length is None:
        return int(model.max_seq_length or positions or 2**31)
    if positions is not None and context.max_length > positions:
        raise LoadFailed(
            f"model {context.model_id} reads at most {positions} tokens; maxLength is {context.max_length}",
            model_id=context.model_id,
            field="spec.model.config.maxLength",
            remedy=f"set maxLength to {positions} or less",
        )
    model.max_seq_length = context.max_length
    return context.max_length


def _defaults(context: EngineContext) -> Parameters:
    try:
        return parse_parameters(context.parameters, Parameters(), field="spec.model.config.parameters")
    except InvalidRequest as error:
        raise LoadFailed(
            f"model {context.model_id}: {error.message}",
            model_id=context.model_id,
            field=error.context.field,
            remedy=error.context.remedy,
        ) from error


def _refuse_other_inputs(entry: EngineInput) -> None:
    for name in entry.values:
        if name != _INPUT:
            raise InvalidRequest(f"input.{name} is unknown", field=f"input.{name}", remedy="txt2embed reads input.text")


def _refuse_blank(texts: list[str]) -> None:
    for index, text in enumerate(texts):
        if not text.strip():
            raise InvalidRequest(
                f"text {index} of input.text is empty", field="input.text", remedy="leave empty texts out"
            )


def _answer(vectors: Vectors, parameters: Parameters) -> Outputs | ModelMoraError:
    if not np.isfinite(vectors).all():
        return InferenceFailed("the model answered with numbers that are not finite", remedy="try dtype: float32")
    if parameters.normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return {_OUTPUT: vectors}


def _quiet() -> None:
    """Progress bars and notes of the libraries are no log of a server."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
