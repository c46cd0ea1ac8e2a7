"""Published weights: names and shapes fit, grey images give what colour ones did, errors advise."""

from urllib.error import URLError

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from pnloc.detector import NarrowResNet, imagenet, start
from pnloc.errors import PnlocError

NAME = ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Where torch's hub keeps the published ResNet-18."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / NAME


def test_the_backbone_computes_what_torchvisions_network_computes_of_a_grey_image(file):
    torch.manual_seed(0)
    net, body = resnet18().eval(), NarrowResNet(64).eval()
    torch.save(net.state_dict(), file)
    start(body, "imagenet")
    grey = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(grey.expand(-1, 3, -1, -1))))))
        eighth = net.layer2(x)
        ours, last = body(grey), net.layer4(net.layer3(eighth))
    torch.testing.assert_close(ours["8"], eighth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["32"], last, rtol=1e-4, atol=1e-5)


def test_what_a_detector_starts_from():
    body = NarrowResNet(32)
    before = {k: v.clone() for k, v in body.state_dict().items()}
    start(body, "random")
    assert all(torch.equal(before[k], v) for k, v in body.state_dict().items())
    with pytest.raises(PnlocError, match="width of 64, not 32"):
        start(body, "imagenet")
    with pytest.raises(PnlocError, match="'random' or 'imagenet' weights, not 'xray'"):
        start(body, "xray")


def test_without_a_network_the_error_says_what_to_put_where(file, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    advice = rf"cannot be downloaded .*no route.*{NAME} into .*start='random'"
    with pytest.raises(PnlocError, match=advice):
        imagenet()


class Evil:
    """What a pickle that runs code unpickles to."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", Evil])
def test_a_file_that_is_no_checkpoint_is_named_and_runs_no_code(file, tmp_path, content):
    if content is Evil:
        torch.save({"conv1.weight": Evil(str(tmp_path / "ran"))}, file)
    else:
        file.write_bytes(content)
    with pytest.raises(PnlocError, match=rf"{NAME}: not the weights of a ResNet-18 .*delete it"):
        imagenet()
    assert not (tmp_path / "ran").exists()
