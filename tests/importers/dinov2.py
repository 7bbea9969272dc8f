"""What DINOv2's heads compute, in plain torch, by their published tensors, and random tensors of those names.

Written after the source's description of each head: dinov2/hub/classifiers.py, dinov2/hub/depthers.py, and
dinov2/eval/segmentation/models/decode_heads/linear_head.py in https://github.com/facebookresearch/dinov2.
"""

import functools

import timm
import torch
from torch import nn
from torch.nn import functional

MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
BLOCKS = {12: [2, 5, 8, 11], 24: [4, 11, 17, 23], 40: [9, 19, 29, 39]}
WIDTHS = {"vits14": 384, "vitb14": 768, "vitl14": 1024, "vitg14": 1536}
CLASSES = {"ade20k": 150, "voc2012": 21}


def published_shapes(stem, width=None):
    """The tensors in the file of a head, such as "vits14_reg4_linear", or as they would be for another width."""
    model, *rest = [part for part in stem.split("_") if part != "reg4"]
    width, kind = width or WIDTHS[model], rest[-1]
    layers = 4 if kind in ("linear4", "ms") else 1
    if len(rest) == 1:
        return {"weight": (1000, (layers + 1) * width), "bias": (1000,)}
    if rest[0] in CLASSES:
        count, channels = CLASSES[rest[0]], layers * width
        norm = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
        shapes = {f"bn.{name}": shape for name, shape in {**norm, "num_batches_tracked": ()}.items()}
        shapes |= {"conv_seg.weight": (count, channels, 1, 1), "conv_seg.bias": (count,)}
    elif kind != "dpt":
        shapes = {"conv_depth.weight": (256, 2 * layers * width, 1, 1), "conv_depth.bias": (256,)}
    else:
        shapes = dpt_shapes(width)
    return {f"decode_head.{name}": shape for name, shape in shapes.items()}


def dpt_shapes(width):
    shapes = {}
    for level, channels in enumerate((width // 8, width // 4, width // 2, width)):
        blocks = "reassemble_blocks"
        shapes |= {f"{blocks}.readout_projects.{level}.0.weight": (width, 2 * width)}
        shapes |= {f"{blocks}.readout_projects.{level}.0.bias": (width,)}
        shapes |= {f"{blocks}.projects.{level}.conv.weight": (channels, width, 1, 1)}
        shapes |= {f"{blocks}.projects.{level}.conv.bias": (channels,)}
        if level != 2:
            kernel = {0: 4, 1: 2, 3: 3}[level]
            shapes |= {f"{blocks}.resize_layers.{level}.weight": (channels, channels, kernel, kernel)}
            shapes |= {f"{blocks}.resize_layers.{level}.bias": (channels,)}
        shapes |= {f"convs.{level}.conv.weight": (256, channels, 3, 3)}
        fusion = f"fusion_blocks.{level}"
        shapes |= {f"{fusion}.project.conv.weight": (256, 256, 1, 1), f"{fusion}.project.conv.bias": (256,)}
        for unit in (1, 2) if level else (2,):
            shapes |= {f"{fusion}.res_conv_unit{unit}.conv{i}.conv.weight": (256, 256, 3, 3) for i in (1, 2)}
    shapes |= {"project.conv.weight": (256, 256, 3, 3), "project.conv.bias": (256,)}
    for layer, shape in {0: (128, 256, 3, 3), 2: (32, 128, 3, 3), 4: (1, 32, 1, 1)}.items():
        shapes |= {f"conv_depth.head.{layer}.weight": shape, f"conv_depth.head.{layer}.bias": shape[:1]}
    return shapes


def random_state(shapes, seed=0):
    """Tensors of these shapes, by which signals keep their size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        elif name.endswith("conv_depth.head.4.bias"):
            state[name] = torch.ones(shape)  # so that most depths are above 0, where they are cut off
        else:
            inputs = torch.Size(shape[1:]).numel() if len(shape) > 1 else 10
            state[name] = torch.randn(shape, generator=generator) * (1.5 / inputs) ** 0.5
    return state


@functools.cache
def backbone(name, size):
    """timm's backbone with random weights, whose blocks and final norm change the tokens."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, img_size=size)
    for key, weight in model.named_parameters():
        if key.endswith(".gamma") or key == "norm.weight":
            nn.init.uniform_(weight, 0.5, 1.5)
        elif key == "norm.bias":
            nn.init.normal_(weight)
    return model.eval()


@torch.no_grad()
def head(stem, state, model, image):
    """The output of a head for images in [0, 1]: the logits of classes, of pixels, or the depth."""
    state = {name.removeprefix("decode_head."): tensor for name, tensor in state.items()}
    rest = [part for part in stem.split("_") if part != "reg4"][1:]
    kind, depth = rest[-1], len(model.blocks)

    def blocks(indices, norm):
        image_ = (image - MEAN) / STD
        kwargs = {"norm": norm, "return_prefix_tokens": True, "intermediates_only": True}
        pairs = model.forward_intermediates(image_, indices=indices, **kwargs)
        return [map_ for map_, _ in pairs], [prefix[:, 0] for _, prefix in pairs]

    last = [depth - 1] if kind == "linear" else [depth - 4, depth - 3, depth - 2, depth - 1]
    if len(rest) == 1:
        maps, tokens = blocks(last, norm=True)
        return functional.linear(torch.cat([*tokens, maps[-1].mean((2, 3))], 1), state["weight"], state["bias"])
    if rest[0] in CLASSES:
        maps = torch.cat(blocks(last, norm=True)[0], 1)
        norm = [state[f"bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return resized(convolve(functional.batch_norm(maps, *norm), state, "conv_seg"), image)
    near, far = 0.001, {"nyu": 10.0, "kitti": 80.0}[rest[0]]
    maps, tokens = blocks([depth - 1] if kind == "linear" else BLOCKS[depth], norm=False)
    if kind == "dpt":
        values = convolve(dpt(state, maps, tokens), state, "conv_depth.head.0", padding=1)
        values = functional.interpolate(values, scale_factor=2, mode="bilinear", align_corners=True)
        values = functional.relu(convolve(values, state, "conv_depth.head.2", padding=1))
        values = functional.relu(convolve(values, state, "conv_depth.head.4")) + near
    else:
        both = [torch.cat([m, t[:, :, None, None].expand_as(m)], 1) for m, t in zip(maps, tokens, strict=True)]
        size = [4 * side for side in maps[0].shape[2:]]
        both = [functional.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in both]
        scores = functional.relu(convolve(torch.cat(both, 1), state, "conv_depth")) + 0.1
        bins = torch.linspace(near, far, 256)[:, None, None]
        values = (scores / scores.sum(1, keepdim=True) * bins).sum(1, keepdim=True)
    return resized(values.clamp(near, far), image)


def dpt(state, maps, tokens):
    """The fused map of DPT, before its last convolutions."""
    levels = []
    for level, (map_, token) in enumerate(zip(maps, tokens, strict=True)):
        cells = map_.permute(0, 2, 3, 1)
        both = torch.cat([cells, token[:, None, None].expand_as(cells)], -1)
        readout = f"reassemble_blocks.readout_projects.{level}.0"
        read = functional.gelu(functional.linear(both, state[f"{readout}.weight"], state[f"{readout}.bias"]))
        x = convolve(read.permute(0, 3, 1, 2), state, f"reassemble_blocks.projects.{level}.conv")
        resize = f"reassemble_blocks.resize_layers.{level}"
        if level < 2:
            stride = (4, 2)[level]
            x = functional.conv_transpose2d(x, state[f"{resize}.weight"], state[f"{resize}.bias"], stride=stride)
        elif level == 3:
            x = convolve(x, state, resize, stride=2, padding=1)
        levels.append(convolve(x, state, f"convs.{level}.conv", padding=1))

    def unit(x, name):
        inner = convolve(functional.relu(x), state, f"{name}.conv1.conv", padding=1)
        return x + convolve(functional.relu(inner), state, f"{name}.conv2.conv", padding=1)

    fused = levels[3]
    for index in range(4):
        name = f"fusion_blocks.{index}"
        if index:
            skip = functional.interpolate(levels[3 - index], fused.shape[2:], mode="bilinear", align_corners=False)
            fused = fused + unit(skip, f"{name}.res_conv_unit1")
        fused = unit(fused, f"{name}.res_conv_unit2")
        fused = functional.interpolate(fused, scale_factor=2, mode="bilinear", align_corners=True)
        fused = convolve(fused, state, f"{name}.project.conv")
    return functional.relu(convolve(fused, state, "project.conv", padding=1))


def convolve(x, state, name, **options):
    return functional.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)


def resized(values, image):
    return functional.interpolate(values, image.shape[2:], mode="bilinear", align_corners=False)
