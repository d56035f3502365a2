"""System B's adapters: one row trains, LoRA begins as nothing, and plain diffusers reads what is saved."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from defect_pipeline.diffusion.adapters import prompted_loss
from defect_pipeline.diffusion.backbone import Backbone, load_backbone, load_pipeline
from defect_pipeline.diffusion.lora import ATTENTION, FILE, add_lora, load_lora, save_lora
from defect_pipeline.diffusion.token import TOKEN, learnable_token, load_token, save_token
from defect_pipeline.diffusion.training import TrainingState, training_loop
from defect_pipeline.errors import PipelineError
from defect_pipeline.profiles import EMBEDDED_BACKBONE
from defect_pipeline.resumable import resumed

PROMPT = f"a photo of {TOKEN}"


@pytest.fixture(params=["tiny_backbone", "tiny_stable_diffusion"])
def directory(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def latents(backbone: Backbone) -> torch.Tensor:
    return torch.randn(4, backbone.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(1))


def learn(backbone: Backbone, parameters: list, steps: int, checkpoint: Path | None = None) -> list[float]:
    loss_at = prompted_loss(backbone, latents(backbone), PROMPT, batch=2)

    def loop(left: Mapping[str, torch.Tensor] | None) -> Iterator[TrainingState]:
        return training_loop(parameters, loss_at, steps=steps, learning_rate=0.05, seed=0, resume=left)

    states = resumed(loop, checkpoint, steps=steps, every=1) if checkpoint else loop(None)
    return [state.loss.item() for state in states]


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_one_row_trains_and_everything_else_stays(directory: Path):
    backbone = load_backbone(directory)
    before = {name: tensors(getattr(backbone, name)) for name in ("unet", "text_encoder")}
    with learnable_token(backbone, "dark defect") as row:
        first = row.detach().clone()
        learn(backbone, [row], 3)
        assert [
            p.shape for p in (*backbone.text_encoder.parameters(), *backbone.unet.parameters()) if p.requires_grad
        ] == [row.shape]
    after = {name: tensors(getattr(backbone, name)) for name in before}
    vocabulary = next(name for name in before["text_encoder"] if "token_embedding" in name)
    known = before["text_encoder"].pop(vocabulary)
    learned = after["text_encoder"].pop(vocabulary)
    assert torch.equal(learned[: len(known)], known) and len(learned) == len(known) + 1
    assert not torch.equal(learned[-1], first)
    words = backbone.tokenizer("dark defect", add_special_tokens=False).input_ids
    assert torch.allclose(first, known[words].mean(0))
    for name in before:
        assert before[name].keys() == after[name].keys()
        assert all(torch.equal(tensor, after[name][key]) for key, tensor in before[name].items())


def test_the_row_survives_a_resume(tiny_backbone: Path, tmp_path: Path):
    rows = []
    for kills in ((), (2,)):
        checkpoint = tmp_path / f"{kills}.safetensors"
        for steps in (*kills, 4):
            backbone = load_backbone(tiny_backbone)
            with learnable_token(backbone, "defect") as row:
                learn(backbone, [row], steps, checkpoint)
                rows.append(row.detach().clone())
    whole, _, resumed = rows
    assert torch.equal(whole, resumed)


def test_a_token_that_is_known_is_refused(tiny_backbone: Path):
    backbone = load_backbone(tiny_backbone)
    with learnable_token(backbone, "defect"):
        pass
    with pytest.raises(PipelineError, match=f"knows {TOKEN} already"), learnable_token(backbone, "defect"):
        pass


def test_lora_begins_as_nothing_and_then_trains_alone(directory: Path):
    backbone = load_backbone(directory)
    z, text, t = latents(backbone), backbone.embed(["a photo"] * 4), torch.full((4,), 500)
    before = backbone.unet(z, t, text).sample
    kept = {name: tensors(getattr(backbone, name)) for name in ATTENTION}
    trainable = add_lora(backbone, rank=1, seed=0)
    assert torch.equal(backbone.embed(["a photo"] * 4), text)
    assert torch.equal(backbone.unet(z, t, text).sample, before)
    found = [p for name in ATTENTION for p in getattr(backbone, name).parameters() if p.requires_grad]
    assert {id(p) for p in found} == {id(p) for p in trainable} and all(1 in p.shape for p in trainable)
    attention = [n for n, _ in backbone.unet.named_modules() if n.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    attention += [n for n, _ in backbone.text_encoder.named_modules() if n.endswith("_proj")]
    assert len(trainable) == 2 * len(attention)
    learn(backbone, trainable, 3)
    assert not torch.equal(backbone.unet(z, t, text).sample, before)
    for name, tensors_before in kept.items():
        state = {key.replace(".base_layer", ""): v for key, v in getattr(backbone, name).state_dict().items()}
        assert all(torch.equal(tensor, state[key]) for key, tensor in tensors_before.items())


def test_plain_diffusers_reads_token_and_adapters_and_paints_the_same(directory: Path, tmp_path: Path):
    backbone = load_backbone(directory)
    with learnable_token(backbone, "defect") as row:
        learn(backbone, [row], 2)
    learn(backbone, add_lora(backbone, rank=2, seed=0), 3)
    save_token(backbone, tmp_path / "learned_embeds.safetensors")
    save_lora(backbone, tmp_path)

    plain = load_pipeline(directory)
    plain.load_textual_inversion(tmp_path / "learned_embeds.safetensors", token=TOKEN)
    plain.load_lora_weights(tmp_path)
    ours = load_backbone(directory)
    load_token(ours, tmp_path / "learned_embeds.safetensors")
    load_lora(ours, tmp_path)
    z, t, text = latents(backbone), torch.full((4,), 500), backbone.embed([PROMPT] * 4)
    wanted = backbone.unet(z, t, text).sample
    theirs = plain.encode_prompt([PROMPT] * 4, "cpu", 1, False)[0]
    for network, words in ((plain.unet, theirs), (ours.unet, ours.embed([PROMPT] * 4))):
        assert torch.allclose(words, text, atol=1e-5)
        assert torch.allclose(network(z, t, words).sample, wanted, atol=1e-4)
    assert not torch.allclose(load_backbone(directory).unet(z, t, text).sample, wanted, atol=1e-4)


def test_what_belongs_to_another_model_is_refused(tiny_backbone: Path, tmp_path: Path):
    backbone = load_backbone(tiny_backbone)
    with learnable_token(backbone, "defect"):
        pass
    add_lora(backbone, rank=1, seed=0)
    save_token(backbone, tmp_path / "token.safetensors")
    save_lora(backbone, tmp_path)
    embedded = load_backbone(EMBEDDED_BACKBONE)
    with pytest.raises(PipelineError, match="token.safetensors is an embedding of"):
        load_token(embedded, tmp_path / "token.safetensors")
    with pytest.raises(PipelineError, match=f"{FILE} does not fit"):
        load_lora(embedded, tmp_path)
