"""Published weights: their names and shapes fit, grey images are seen as colour ones were, and what is missing is said."""

from urllib.error import URLError

import pytest
import torch
from torchvision.models import ResNet18_Weights, resnet18

from pnloc import detector as pretrained
from pnloc.config import preset
from pnloc.detector import NarrowResNet
from pnloc.errors import PnlocError


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of torch's hub that holds a ResNet-18 of random weights under the name of the published ones, and that network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    network = resnet18().eval()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    return network


def test_the_backbone_computes_what_torchvisions_network_computes_of_a_grey_image(hub):
    body = NarrowResNet(64).eval()
    pretrained.start(body, "imagenet")
    grey = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        x = hub.layer1(hub.maxpool(hub.relu(hub.bn1(hub.conv1(grey.expand(-1, 3, -1, -1))))))
        eighth = hub.layer2(x)
        last = hub.layer4(hub.layer3(eighth))
        ours = body(grey)
    torch.testing.assert_close(ours["8"], eighth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours["32"], last, rtol=1e-4, atol=1e-5)


def test_random_weights_stay_as_they_are():
    body = NarrowResNet(8)
    before = {k: v.clone() for k, v in body.state_dict().items()}
    pretrained.start(body, "random")
    assert all(torch.equal(before[k], v) for k, v in body.state_dict().items())


def test_a_narrow_network_and_an_unknown_name_are_refused(hub):
    with pytest.raises(PnlocError, match="width 64, not 32"):
        pretrained.start(NarrowResNet(32), "imagenet")
    with pytest.raises(PnlocError, match="'random' or 'imagenet' weights, not 'xray'"):
        pretrained.start(NarrowResNet(64), "xray")


def test_without_a_network_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        PnlocError, match=r"cannot be downloaded .*no route.*resnet18-\w+.pth into .*start='random'"
    ):
        pretrained.imagenet()


@pytest.mark.parametrize("content", [b"<html>not found</html>", b""])
def test_a_file_that_is_no_checkpoint_is_named(hub, tmp_path, content):
    path = next((tmp_path / "hub" / "checkpoints").iterdir())
    path.write_bytes(content)
    with pytest.raises(
        PnlocError, match=rf"{path.name}: not the weights of a ResNet-18 .*delete it"
    ):
        pretrained.imagenet()


def test_a_file_that_would_run_code_is_not_read(hub, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = next((tmp_path / "hub" / "checkpoints").iterdir())
    torch.save({"conv1.weight": Evil()}, path)
    with pytest.raises(PnlocError, match="not the weights"):
        pretrained.imagenet()
    assert not (tmp_path / "ran").exists(), "reading the file ran what it said"


def test_only_presets_of_the_right_width_ask_for_them():
    for name in ("smoke", "demo", "public", "mimic"):
        config = preset(name).detector
        assert config.start == "random" or config.width == pretrained.WIDTH
    assert preset("mimic").detector.start == "imagenet"
