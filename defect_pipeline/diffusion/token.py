"""Token embedding adaptation (paper B, stage 1): textual inversion of which exactly one row of the vocabulary trains."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from defect_pipeline.diffusion.backbone import Backbone
from defect_pipeline.errors import PipelineError

TOKEN = "<unknown>"


class _OneRow(nn.Module):
    """A vocabulary with one row in a parameter of its own: no optimizer and no weight decay can reach another."""

    def __init__(self, known: nn.Embedding, index: int) -> None:
        super().__init__()
        self.known, self.index = known, index
        self.row = nn.Parameter(known.weight[index].detach().clone())

    def forward(self, ids: Tensor) -> Tensor:
        return torch.where((ids == self.index)[..., None], self.row, self.known(ids))


@contextmanager
def learnable_token(backbone: Backbone, like: str, token: str = TOKEN) -> Iterator[nn.Parameter]:
    """Give the backbone's vocabulary a new ``token``, which begins as the mean of the words of ``like``.

    Its embedding (D,) is the parameter to train inside the block; afterwards it is an ordinary row. Raises
    PipelineError where the token is known already.
    """
    words = backbone.tokenizer(like, add_special_tokens=False).input_ids
    with torch.no_grad():
        first = backbone.text_encoder.get_input_embeddings().weight[words].mean(0)
    index = _add(backbone, token, first)
    known = backbone.text_encoder.get_input_embeddings()
    learned = _OneRow(known, index).to(backbone.device)
    backbone.text_encoder.set_input_embeddings(learned)
    try:
        yield learned.row
    finally:
        backbone.text_encoder.set_input_embeddings(known)
        with torch.no_grad():
            known.weight[index] = learned.row


def save_token(backbone: Backbone, file: Path, token: str = TOKEN) -> None:
    """The token's embedding as `StableDiffusionPipeline.load_textual_inversion` reads it."""
    index = backbone.tokenizer.convert_tokens_to_ids(token)
    save_file({token: backbone.text_encoder.get_input_embeddings().weight[index].detach().clone()}, file)


def load_token(backbone: Backbone, file: Path) -> None:
    """Give the backbone the token of a file that `save_token` wrote. Raises PipelineError for one of another model."""
    for token, row in load_file(file).items():
        width = backbone.text_encoder.get_input_embeddings().embedding_dim
        if row.shape != (width,):
            raise PipelineError(
                f"{file} is an embedding of {tuple(row.shape)}, the text encoder has {width}: learn it."
            )
        _add(backbone, token, row)


def _add(backbone: Backbone, token: str, row: Tensor) -> int:
    """A new row of the vocabulary; its index."""
    if not backbone.tokenizer.add_tokens([token]):
        raise PipelineError(f"The tokenizer of {backbone.directory} knows {token} already; choose another token.")
    backbone.text_encoder.resize_token_embeddings(len(backbone.tokenizer), mean_resizing=False)
    backbone.text_encoder.requires_grad_(False)
    index = int(backbone.tokenizer.convert_tokens_to_ids(token))
    with torch.no_grad():
        backbone.text_encoder.get_input_embeddings().weight[index] = row.to(backbone.device)
    return index
