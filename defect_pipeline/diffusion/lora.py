"""Network parameter adaptation (paper B, stage 2): LoRA on every attention layer of text encoder and U-Net."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, recurse_remove_peft_layers
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from defect_pipeline.diffusion.backbone import Backbone
from defect_pipeline.errors import PipelineError

FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for
ATTENTION = {  # the projections of every attention layer
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
}


def add_lora(backbone: Backbone, rank: int, seed: int) -> list[nn.Parameter]:
    """Adapters of ``rank`` on both networks, drawn from ``seed``, without effect until trained: the trainable ones."""
    trainable = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name, layers in ATTENTION.items():
            network = getattr(backbone, name)
            network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=layers))
            trainable += [p for key, p in network.named_parameters() if "lora_" in key]
    for parameter in trainable:
        parameter.data = parameter.data.float()  # adapters of a half-precision model would inherit its precision
    return trainable


def save_lora(backbone: Backbone, directory: Path) -> None:
    """The adapters as `StableDiffusionPipeline.load_lora_weights` and older tools read them."""
    learned = {name: _converted(getattr(backbone, name)) for name in ATTENTION}
    if not hasattr(backbone.text_encoder, "text_model"):  # the level that other versions, and their files, have
        learned["text_encoder"] = {f"text_model.{key}": tensor for key, tensor in learned["text_encoder"].items()}
    StableDiffusionPipeline.save_lora_weights(
        directory, **{f"{name}_lora_layers": layers for name, layers in learned.items()}
    )


def load_lora(backbone: Backbone, directory: Path) -> None:
    """Merge adapters that `save_lora` wrote into the backbone's own weights: as fast as without, and for good.

    Raises PipelineError for those of another model.
    """
    layers, scales = StableDiffusionPipeline.lora_state_dict(directory, weight_name=FILE, local_files_only=True)
    try:
        StableDiffusionPipeline.load_lora_into_unet(layers, scales, backbone.unet)
        StableDiffusionPipeline.load_lora_into_text_encoder(layers, scales, backbone.text_encoder)
    except (RuntimeError, ValueError) as error:
        raise PipelineError(
            f"{directory / FILE} does not fit the backbone {backbone.directory}: learn it anew."
        ) from error
    for network in (backbone.unet, backbone.text_encoder):
        for module in network.modules():
            if isinstance(module, LoraLayer):
                module.merge()
        recurse_remove_peft_layers(network)  # a copy of the U-Net, as a hypernetwork is, knows no wrapped layers


def _converted(network: nn.Module) -> dict[str, torch.Tensor]:
    """A network's adapters under diffusers' names; the vocabulary, to which a token was added, stays out."""
    return convert_state_dict_to_diffusers(get_peft_model_state_dict(network, save_embedding_layers=False))
