"""ResNets for CIFAR-10 (He et al., 2016a) as others trained and published them: a control for our own trainings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SOURCE = (
    "It is published at github.com/akamaster/pytorch_resnet_cifar10 (pretrained_models): take state_dict, remove "
    "'module.' from the names and save it with safetensors"
)


class Block(nn.Module):
    """Two convolutions and a shortcut of type A: every second pixel, zeros on either side for missing channels."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if before == channels else 2
        self.missing = channels - before
        self.conv1 = nn.Conv2d(before, channels, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        path = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.missing:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing // 2, self.missing // 2))
        return torch.relu(path + x)


class ResNet(nn.Module):
    """One convolution, three stages of blocks with 16, 32 and 64 channels, mean over space, linear."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(*(Block(before if not n else out, out) for n in range(blocks)))
            for before, out in ((16, 16), (16, 32), (32, 64))
        )
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet(depth: int) -> ResNet:
    """The network of that depth, 6 n + 2.

    >>> resnet(20)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return ResNet((depth - 2) // 6)
