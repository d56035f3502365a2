"""Training: ours against diffusers' example scripts, unchanged, with the same network, weights, images and settings.

Both run as processes of their own; what is timed are the steps after the first few, so neither start-up nor ours encoding
the images once and for all is in it. Their losses must agree.
"""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from defect_pipeline.diffusion.world import draw_surfaces
from defect_pipeline.errors import PipelineError
from defect_pipeline_tests.benchmarks import learning, machine
from defect_pipeline_tests.benchmarks.case import Case
from defect_pipeline_tests.benchmarks.data import as_bytes
from defect_pipeline_tests.benchmarks.processes import Watched, watch
from defect_pipeline_tests.benchmarks.timing import Row

IMAGES, STEPS, FIRST = 32, 45, 5  # images of the component, and of its class; steps, and those not timed
PROFILED = 6  # steps
ERRORS = 4  # standard errors that two means of the same loss may differ by
MODULE = "defect_pipeline_tests.benchmarks."
SCRIPTS = {
    "concept": "dreambooth/train_dreambooth.py",
    "hypernetwork": "controlnet/train_controlnet.py",
    "token": "textual_inversion/textual_inversion.py",
    "lora": "text_to_image/train_text_to_image_lora.py",
}


def training(case: Case, kind: str, official: Path, repeats: int) -> Row:
    """Of one kind, against the script of a checkout of diffusers."""
    script = official / "examples" / SCRIPTS[kind]
    if not script.is_file():
        raise PipelineError(f"There is no {script}: name a checkout of diffusers with --official.")
    if importlib.util.find_spec("datasets") is None:
        raise PipelineError('The scripts read images with `datasets`: uv pip install -e ".[bench]"')
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        case = _prepare(folder, case)
        ours = [sys.executable, "-m", f"{MODULE}learning", kind, directory, str(STEPS), case.device, case.precision]
        theirs = [sys.executable, "-m", f"{MODULE}script", str(script), *_arguments(kind, folder, case)]
        environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
        runs: tuple[list[Watched], list[Watched]] = [], []
        for _ in range(repeats):
            for kept, command in zip(runs, (ours, theirs), strict=True):
                kept.append(watch(command, steps=STEPS, first=FIRST, environment=environment, device=case.device))
        steps = learning.KINDS[kind](case.backbone(), folder, PROFILED)
        next(steps)
        products = machine.in_products(lambda: list(steps), case.device)
        one, two = (machine.flops(lambda n=n: list(learning.KINDS[kind](case.backbone(), folder, n))) for n in (1, 2))
    losses = _agreement(*(np.concatenate([run.losses for run in kept]) for kept in runs))
    return Row(
        f"training of {kind}, batch {learning.BATCH}, {case.size} px",
        learning.BATCH * (STEPS - FIRST),
        *([run.seconds for run in kept] for kept in runs),
        f"{script.name}; {losses}",
        unit="images",
        flops=(two - one) * (STEPS - FIRST),
        products=products,
        memory=(max(run.memory for run in runs[0]), max(run.memory for run in runs[1])),
    )


def _agreement(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The mean losses in words. Raises AssertionError where they are farther apart than chance explains."""
    error = np.sqrt(sum(losses.var(ddof=1) / len(losses) for losses in (ours, theirs)))  # of their difference
    said = f"losses {ours.mean():.3f} and {theirs.mean():.3f}, {error:.3f} by chance"
    assert abs(ours.mean() - theirs.mean()) <= ERRORS * error, f"{said}: they differ"
    return said


def _prepare(folder: Path, case: Case) -> Case:
    """Backbone, images with drivers and words, and images of the class, as both read them; the case with that backbone."""
    backbone, hypernetwork = case.generator()  # in float32: the scripts take a text encoder as it lies there
    for part in ("tokenizer", "text_encoder", "unet", "vae", "scheduler"):
        getattr(backbone, part).save_pretrained(folder / "backbone" / part)
    hypernetwork.save_pretrained(folder / "backbone" / "controlnet")
    marked, plain = (draw_surfaces(IMAGES, case.size, torch.Generator().manual_seed(k), marked=k) for k in (1, 0))
    drivers = marked.masks[:, None].float() * torch.tensor([1.0, 0.2, 0.2]).view(1, 3, 1, 1)
    for name, pictures in (("train/images", marked.images), ("train/drivers", drivers), ("prior", plain.images)):
        (folder / name).mkdir(parents=True)
        for k, picture in enumerate(as_bytes(pictures)):
            Image.fromarray(picture).save(folder / name / f"{k:03d}.png")
    files = [{"file_name": f"images/{k:03d}.png", "driver_file_name": f"drivers/{k:03d}.png"} for k in range(IMAGES)]
    rows = [json.dumps(row | {"text": learning.INSTANCE}) for row in files]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(rows))
    return replace(case, directory=folder / "backbone")


def _arguments(kind: str, folder: Path, case: Case) -> list[str]:
    """Of a script, so that it does what `learning` does."""
    batch = learning.BATCH // 2 if kind == "concept" else learning.BATCH  # it adds as many images of the class
    common = {
        "pretrained_model_name_or_path": folder / "backbone", "output_dir": folder / "theirs", "resolution": case.size,
        "mixed_precision": {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}[case.precision],
        "train_batch_size": batch, "max_train_steps": STEPS, "learning_rate": learning.RATE, "seed": 0,
        "lr_scheduler": "constant", "lr_warmup_steps": 0,
        "adam_beta2": 0.99, "adam_epsilon": 1e-12, "adam_weight_decay": 0,
    }  # fmt: skip
    own = {
        "concept": {
            "instance_data_dir": folder / "train" / "images", "instance_prompt": learning.INSTANCE,
            "class_data_dir": folder / "prior", "class_prompt": learning.CLASS, "num_class_images": IMAGES,
            "with_prior_preservation": None, "prior_loss_weight": learning.PRIOR_WEIGHT,
        },
        "hypernetwork": {
            "controlnet_model_name_or_path": folder / "backbone" / "controlnet", "train_data_dir": folder / "train",
            "image_column": "image", "conditioning_image_column": "driver", "caption_column": "text",
            "cache_dir": folder / "cache",
        },
        "token": {
            "train_data_dir": folder / "train" / "images", "placeholder_token": "<unknown>",
            "initializer_token": learning.LIKE,
        },
        "lora": {
            "train_data_dir": folder / "train", "rank": learning.RANK, "cache_dir": folder / "cache",
            "image_column": "image", "caption_column": "text",
        },
    }  # fmt: skip
    return [
        str(word) for name, value in (common | own[kind]).items() for word in (f"--{name}", value) if word is not None
    ]
