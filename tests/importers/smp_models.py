"""Small models of segmentation_models.pytorch with random weights, and what is compared of them."""

import warnings

import segmentation_models_pytorch as smp
import torch
from torch import nn

WIDTHS = [32, 16, 16, 16, 16]
# Encoder and arguments for each decoder: several kinds of encoders, and decoders narrower than smp's.
MODELS = {
    "unet": ("tu-test_resnet", {"decoder_channels": WIDTHS, "decoder_attention_type": "scse"}),
    "unetplusplus": ("tu-test_convnext", {"decoder_channels": WIDTHS}),
    "manet": ("tu-test_resnet", {"decoder_channels": WIDTHS, "decoder_pab_channels": 8}),
    "linknet": ("tu-test_convnext", {"decoder_use_norm": {"type": "batchnorm", "eps": 1e-3}}),
    "fpn": ("tu-test_resnet", {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}),
    "pspnet": ("tu-test_resnet", {"psp_out_channels": 32}),
    "deeplabv3": ("tu-test_resnet", {"decoder_channels": 16}),
    "deeplabv3plus": ("resnet18", {"decoder_channels": 16}),
    "pan": ("tu-test_resnet", {}),
    "upernet": ("tu-test_convnext", {"decoder_channels": 16}),
    "segformer": ("tu-test_convnext", {"decoder_segmentation_channels": 32}),
    "dpt": (
        "tu-test_vit",
        {
            "decoder_readout": "ignore",
            "decoder_intermediate_channels": [8, 8, 8, 8],
            "decoder_fusion_channels": 16,
            "dynamic_img_size": True,
        },
    ),
}


def smp_model(architecture, encoder=None, **arguments):
    """A model of smp in evaluation mode, whose batch norm has statistics other than 0 and 1."""
    name, others = MODELS[architecture]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = smp.create_model(
            architecture, encoder or name, encoder_weights=None, **{"classes": 3, **others, **arguments}
        )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def image_of(size, channels=3, seed=0):
    return torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(seed))


def masks_of(model, image, images):
    """What smp's model returns for an image in [0, 1], normalised as `InputSpec` says."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.mean, images.std))
    with torch.no_grad():
        return model((image - mean) / std)


def logits_of(model, image):
    with torch.no_grad():
        return model.eval()({"image": image}, outputs=["seg/logits"])["seg/logits"]
