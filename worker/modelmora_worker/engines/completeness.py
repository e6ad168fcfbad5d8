"""Refuses weights that lack something the model's answers depend on.

Transformers fills a tensor that the files lack with random numbers and only warns: the model would load, pass its test
inference, and answer nonsense, another one after every start. But not every missing tensor matters: many encoders are
saved without the pooler that embeddings do not use. So transformers is asked what was missing, and autograd whether the
answer depends on it, by one pass that is made only if something was missing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from modelmora.errors import LoadFailed

_MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Missing:
    """A tensor that was not in the files."""

    name: str
    tensor: torch.Tensor


@contextmanager
def recorded() -> Iterator[list[Missing]]:
    """Everything that transformers loads inside says what it filled in; one thread may load at a time."""
    missing: list[Missing] = []
    patched: Any = PreTrainedModel  # through every loader on top of it: they offer no way to ask
    original = patched.__dict__["from_pretrained"]

    def from_pretrained(kind: type[PreTrainedModel], *args: Any, **kwargs: Any) -> PreTrainedModel:  # noqa: ANN401 - handed on
        model, found = original.__func__(kind, *args, **{**kwargs, "output_loading_info": True})
        names = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
        tensors = model.state_dict(keep_vars=True)
        missing.extend(Missing(name, tensors[name]) for name in sorted(names & tensors.keys()))
        return model  # type: ignore[no-any-return]  # transformers is not typed here

    patched.from_pretrained = classmethod(from_pretrained)
    try:
        yield missing
    finally:
        patched.from_pretrained = original


def refuse_incomplete(missing: list[Missing], answer: Callable[[], torch.Tensor], *, model_id: str) -> None:
    """Computes one answer, if anything is missing, and follows what it depends on.

    Raises:
        LoadFailed: the answer depends on tensors that the files lack.
    """
    needed = _needed(missing, answer) if missing else []
    if needed:
        more = f" and {len(needed) - _MOST_NAMED} more" if len(needed) > _MOST_NAMED else ""
        raise LoadFailed(
            f"the weights of model {model_id} lack tensors that it needs: {', '.join(needed[:_MOST_NAMED])}{more}",
            model_id=model_id,
            remedy="fetch the whole model, or correct the architecture that its config.json names",
        )


def _needed(missing: list[Missing], answer: Callable[[], torch.Tensor]) -> list[str]:
    weights = [entry for entry in missing if entry.tensor.is_floating_point()]
    tensors = [entry.tensor for entry in weights]
    before = [tensor.requires_grad for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.requires_grad_()
        with torch.enable_grad():
            total = answer().sum()
        # None for what the answer does not depend on, whatever the annotation says.
        gradients: Sequence[torch.Tensor | None] = (
            torch.autograd.grad(total, tensors, allow_unused=True) if total.requires_grad else ()
        )
    finally:
        for tensor, required in zip(tensors, before, strict=True):
            tensor.requires_grad_(required)
    return [entry.name for entry, gradient in zip(weights, gradients, strict=False) if gradient is not None]
