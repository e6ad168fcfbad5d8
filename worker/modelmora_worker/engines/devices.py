"""Which device a model runs on. Asks torch, and so is called only by engines that use it."""

import sys

from modelmora.errors import LoadFailed


def choose(device: str, *, model_id: str = "") -> str:
    """Either "cpu" or "cuda:0"; auto means the GPU if this process sees one (CUDA_VISIBLE_DEVICES="" hides them all).

    Raises:
        LoadFailed: cuda is asked for, and there is none.
    """
    if device == "cpu":
        return "cpu"
    import torch  # noqa: PLC0415 - seconds, and only where an engine computes with it

    if torch.cuda.is_available():
        return "cuda:0"
    if device == "auto":
        return "cpu"
    raise LoadFailed(
        f"model {model_id} asks for the device {device}, and this process sees no GPU",
        model_id=model_id,
        field="spec.model.config.device",
        remedy="set device: auto or cpu, or give the worker a GPU (spec.gpu in a cluster; CUDA_VISIBLE_DEVICES here)",
    )


def allocated_bytes() -> int:
    """Bytes that this process has allocated on its GPU; 0 before torch has used one."""
    # While another thread still imports torch, it is there without its parts.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return 0
    return int(cuda.memory_reserved())
