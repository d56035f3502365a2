"""Named tensors in safetensors files: what networks have learned, and checkpoints of trainings, replaced as a whole and
with a checksum over all of them.

Stages that never meet a tensor import this module too, so torch waits for the first call (see `lazy`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from defect_pipeline.files import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

log = logging.getLogger("defect_pipeline")
CHECKSUM = "sha256"  # safetensors notices a file that is cut off, but not other bytes in a tensor


class ForeignCheckpointError(Exception):
    """A checkpoint is of another network than the one that is to go on from it."""


def save_weights(network: nn.Module, path: Path) -> None:
    """All parameters and buffers of a network."""
    _save({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network what `save_weights` wrote of one like it, in whichever precision."""
    from safetensors.torch import load_file

    network.load_state_dict(load_file(path))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace the file as a whole. Not brought to the disk at once: what a power cut leaves of it, the checksum tells."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        _save(kept, partial, metadata={CHECKSUM: _sha256(kept)})


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """What was written, on the CPU; None where there is no such file, or, with a warning, where it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
            whole = (file.metadata() or {}).get(CHECKSUM) == _sha256(tensors)
    except SafetensorError:
        whole = False
    if not whole:
        log.warning("%s is damaged; what it kept is made anew.", path)
        return None
    return tensors


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by longer names, so that those of several networks fit into one file."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that `with_prefix` put there, by their own names."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers of each parameter; its rates are the training's to set."""
    return {
        f"{i}.{name}": value
        for i, parameter in _parameters(optimizer)
        for name, value in optimizer.state[parameter].items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer of the same parameters what `optimizer_tensors` took from another."""
    import torch

    state = optimizer.state_dict()
    for i, parameter in _parameters(optimizer):
        # fused AdamW walks parameter and moments in memory's order: theirs must be the parameter's, channels last
        state["state"][i] = {
            name: value if name == "step" else torch.empty_like(parameter).copy_(value)
            for name, value in without_prefix(str(i), tensors).items()
        }
    optimizer.load_state_dict(state)


def restore_tensors(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy what was saved into tensors of the same names. Raises ForeignCheckpointError for other names or shapes."""
    import torch

    if {name: t.shape for name, t in tensors.items()} != {name: t.shape for name, t in saved.items()}:
        raise ForeignCheckpointError
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, metadata)


def _parameters(optimizer: Optimizer) -> Iterator[tuple[int, Tensor]]:
    return enumerate(parameter for group in optimizer.param_groups for parameter in group["params"])


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
