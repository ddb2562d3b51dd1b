"""Tiny backbones of every kind that the model has to work with, all of 32 pixels; images and masks for them."""

import torch

from msl_hf import MaskBank

LABELS = ["cat", "dog", "fish"]

NATIVE = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "image_size": 32, "patch_size": 8},
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
    "dinov2_with_registers": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
                              "patch_size": 8},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 32,
             "patch_size": 4, "drop_path_rate": 0.0},
}  # fmt: skip
_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
TIMM = {
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "vit": ("vit_tiny_patch16_224", _VIT),
    "vit_pooled": ("vit_tiny_patch16_224", {**_VIT, "global_pool": "avg"}),
    "vit_registers": ("vit_small_patch14_reg4_dinov2", _VIT),
    "dinov3": ("vit_small_patch16_dinov3", {**_VIT, "embed_dim": 32}),
    "swin": ("swin_tiny_patch4_window7_224", {"img_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
                                              "num_heads": [2, 2], "window_size": 4, "drop_path_rate": 0.0}),
    "mobilenet": ("mobilenetv3_small_100", {}),
}  # fmt: skip
BACKBONES = [f"timm_{name}" for name in TIMM] + [f"hf_{name}" for name in NATIVE]


class Images(torch.utils.data.Dataset):
    """Random images whose label can be seen: class c is bright in channel c."""

    def __init__(self, count: int, side: int = 32):
        generator = torch.Generator().manual_seed(3)
        self.labels = (torch.rand(count, 3, generator=generator) > 0.5).float()
        self.labels[:3] = torch.eye(3)
        self.images = torch.randn(count, 3, side, side, generator=generator) + 2 * self.labels[:, :, None, None]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


BANK = MaskBank(torch.rand(6, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.5)
