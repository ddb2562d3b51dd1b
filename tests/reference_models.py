"""Models of the reference code, written out independently of the package: torchvision or timm, and a loop of heads."""

import timm
import torch
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck

TEMPERATURES = {1: [1], 2: [1, 99], 4: [1, 2, 4, 99], 6: [1, 2, 3, 4, 5, 99], 8: [1, 2, 3, 4, 5, 6, 7, 99]}


class ReferenceHead(nn.Module):
    def __init__(self, width: int, classes: int):
        super().__init__()
        self.head = nn.Conv2d(width, classes, 1, bias=False)

    def forward(self, x: torch.Tensor, temperature: int, weight: float) -> torch.Tensor:
        norm = torch.norm(self.head.weight, dim=1, keepdim=True).transpose(0, 1)
        scores = (self.head(x) / norm).flatten(2)
        if temperature == 99:
            attention = scores.max(dim=2).values
        else:
            attention = (scores * torch.softmax(temperature * scores, dim=2)).sum(dim=2)
        return scores.mean(dim=2) + weight * attention


class ReferenceHeads(nn.Module):
    def __init__(self, heads: int, width: int, classes: int, weight: float):
        super().__init__()
        self.multi_head = nn.ModuleList([ReferenceHead(width, classes) for _ in range(heads)])
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        temperatures = TEMPERATURES[len(self.multi_head)]
        return sum(head(x, t, self.weight) for head, t in zip(self.multi_head, temperatures, strict=True))


class ReferenceResNet(ResNet):
    """A torchvision ResNet whose pooling and classifier are replaced."""

    def __init__(self, layers, heads: int, classes: int, weight: float):
        super().__init__(Bottleneck, layers)
        self.classifier = ReferenceHeads(heads, 2048, classes, weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.classifier(self.layer4(self.layer3(self.layer2(self.layer1(x)))))


class ReferenceViT(nn.Module):
    """A timm ViT whose class token is dropped after the last normalisation; its parts lie at the top level."""

    def __init__(self, name: str, heads: int, classes: int, weight: float, size: int):
        super().__init__()
        vit = timm.create_model(name, img_size=size, num_classes=1000)
        for part, module in vit.named_children():
            setattr(self, part, module)
        self.cls_token, self.pos_embed = vit.cls_token, vit.pos_embed
        self.classifier = ReferenceHeads(heads, vit.embed_dim, classes, weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, 1:]
        side = int(x.shape[1] ** 0.5)
        return self.classifier(x.transpose(1, 2).unflatten(2, (side, side)))
