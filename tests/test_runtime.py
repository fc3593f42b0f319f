"""What "this machine" means: a device that is not here is said in one line, with those that are."""

import pytest
import torch

from omni_lab import cli, runtime
from omni_lab.errors import ConfigError


@pytest.mark.parametrize("device", ["gpu", "cuda:97", "", "cpu:x", 3.5, torch.device("xpu")])
def test_a_device_that_is_not_here_is_named(device):
    with pytest.raises(ConfigError, match=r"not on this machine, which has .*cpu") as caught:
        runtime.hardware(device)
    assert "\n" not in str(caught.value)


def test_devices_that_are_here():
    assert runtime.hardware("cpu").device.type == runtime.hardware(torch.device("cpu")).device.type == "cpu"
    assert runtime.hardware().dtype in (torch.float32, torch.float16, torch.bfloat16)


def test_commands_say_so_too(capsys):
    for command in (["chat", "--device", "cuda:97"], ["train", "clip", "--scale", "smoke", "--device", "gpu"]):
        assert cli.main(command) == 1
        said = capsys.readouterr().err
        assert "is not on this machine" in said and said.count("\n") == 1
