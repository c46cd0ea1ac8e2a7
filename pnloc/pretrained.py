"""Published weights to start from, where the network allows: torchvision's ResNet-18, trained on ImageNet.

They come as a file that torch pickled. It is read by torch's restricted reader, which makes tensors and calls nothing, and checked against
the hash in its name when it is downloaded. torchxrayvision's encoders are whole pickled modules, which would have to be executed to be
read: they are not used.
"""

import torch
from torch import Tensor, nn

from pnloc.errors import PnlocError

WIDTH = 64  # the only width that has published weights
_PLACES = {
    "conv1": "stem.0",
    "bn1": "stem.1",
    "layer1": "stem.4",
    "layer2": "stages.8",
    "layer3": "stages.16",
    "layer4": "stages.32",
}


def imagenet() -> dict[str, Tensor]:
    """The weights of torchvision's ResNet-18 (He et al. 2016) under the names of pnloc.detector.NarrowResNet, for grey images.

    The three colours of the first filter are summed: a grey image is one whose colours are the same. Raises PnlocError where the file is not at
    hand and cannot be downloaded, or is not what it should be.
    """
    from torchvision.models import ResNet18_Weights

    weights = ResNet18_Weights.IMAGENET1K_V1
    folder = f"{torch.hub.get_dir()}/checkpoints"
    try:
        known = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise PnlocError(
            f"the detector is to start from ImageNet weights, which cannot be downloaded ({error}); put {weights.url} into "
            f"{folder}, or set start='random' in the preset (pnloc/config.py)"
        ) from None
    except Exception as error:  # whatever a file that is no checkpoint makes torch say
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise PnlocError(
            f"{folder}/{weights.url.rsplit('/', 1)[1]}: not the weights of a ResNet-18 ({said[0]}); delete it"
        ) from None
    found = {}
    for name, value in known.items():
        first, rest = name.split(".", 1)
        if first in _PLACES:
            found[f"{_PLACES[first]}.{rest}"] = value
    found["stem.0.weight"] = found["stem.0.weight"].sum(1, keepdim=True)
    return found


def start(body: nn.Module, name: str) -> None:
    """Load the named weights into a backbone (pnloc.detector.NarrowResNet): 'random' leaves it as it is, 'imagenet' needs width 64.

    Raises PnlocError for another name or width.
    """
    if name == "random":
        return
    if name != "imagenet":
        raise PnlocError(f"a detector starts from 'random' or 'imagenet' weights, not {name!r}")
    width = body.stem[0].out_channels
    if width != WIDTH:
        raise PnlocError(
            f"ImageNet weights fit a detector of width {WIDTH}, not {width}; set start='random' or width={WIDTH}"
        )
    body.load_state_dict(imagenet())
