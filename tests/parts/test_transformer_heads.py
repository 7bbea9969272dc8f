import pytest
import torch
from torch.nn import functional

from brickyard.parts.dpt import DPTDepth
from brickyard.parts.transformer_heads import LinearDepth, LinearSegmentation, TokenClassifier


def maps_and_tokens(blocks, channels=16, size=(5, 7)):
    torch.manual_seed(0)
    return [torch.randn(2, channels, *size) for _ in range(blocks)], [torch.randn(2, channels) for _ in range(blocks)]


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_classifier_reads_class_tokens_and_then_the_mean_of_the_last_map(blocks):
    maps, tokens = maps_and_tokens(blocks)
    head = TokenClassifier(16, 3, blocks)
    logits = head(tokens, maps[-1])
    expected = head.fc.bias + maps[-1].flatten(2).mean(-1) @ head.fc.weight[:, 16 * blocks :].T
    for index, token in enumerate(tokens):
        expected = expected + token @ head.fc.weight[:, 16 * index : 16 * (index + 1)].T
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_segmentation_head_classifies_every_cell_by_its_normed_channels(blocks):
    maps, _ = maps_and_tokens(blocks)
    head = LinearSegmentation(16, 3, blocks).eval()
    torch.nn.init.uniform_(head.norm.running_mean)
    torch.nn.init.uniform_(head.norm.running_var, 0.5, 2)
    cells = torch.cat(maps, dim=1).permute(0, 2, 3, 1)
    normed = (cells - head.norm.running_mean) / (head.norm.running_var + head.norm.eps).sqrt()
    expected = functional.linear(normed, head.classifier.weight[:, :, 0, 0], head.classifier.bias)
    torch.testing.assert_close(head(maps), expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("blocks", [1, 4])
def test_linear_depth_is_that_of_maps_which_are_enlarged_before_the_convolution(blocks):
    maps, tokens = maps_and_tokens(blocks)
    head = LinearDepth(16, blocks, bins=11, min_depth=1.0, max_depth=3.0)
    both = [torch.cat([m, t[:, :, None, None].expand_as(m)], dim=1) for m, t in zip(maps, tokens, strict=True)]
    enlarged = functional.interpolate(torch.cat(both, dim=1), size=(20, 28), mode="bilinear", align_corners=False)
    scores = head.score(enlarged).clamp(min=0) + 0.1
    bins = torch.tensor([1.0 + 0.2 * index for index in range(11)])
    expected = (scores * bins[:, None, None]).sum(1, keepdim=True) / scores.sum(1, keepdim=True)
    torch.testing.assert_close(head(maps, tokens), expected)
    assert "[1.0, 3.0]" in repr(head)


def test_the_range_of_linear_depth_is_that_of_its_attributes():
    maps, tokens = maps_and_tokens(1)
    head = LinearDepth(16)
    near = head(maps, tokens)
    head.min_depth, head.max_depth = 0.002, 20.0
    torch.testing.assert_close(head(maps, tokens), 2 * near)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_dpt_has_depth_in_its_range_and_a_gradient_in_training(size):
    maps, tokens = maps_and_tokens(4, size=size)
    head = DPTDepth(16, width=8, min_depth=0.5, max_depth=2.0)
    torch.testing.assert_close(head(maps, tokens).mean().item(), 1.75, atol=0.1, rtol=0)
    for fusion in head.fusions:
        torch.nn.init.normal_(fusion.refine.second.weight, std=0.1)
        if fusion.skip is not None:
            torch.nn.init.normal_(fusion.skip.second.weight, std=0.1)
    depth = head(maps, tokens)
    assert depth.shape == (2, 1, *(32 * -(-side // 2) for side in size))
    assert (depth > 0.5).all()  # none starts where the gradient is zero
    depth.sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in head.parameters())
    with torch.no_grad():
        head.depth[-1].bias += 5
        assert head(maps, tokens).min() > 2
        assert head.eval()(maps, tokens).max() == 2
