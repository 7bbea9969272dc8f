"""A collection shows itself in a notebook as HTML with an SVG."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
import torch
from torch import nn

from brickyard import BrickCollection, BrickModule, BrickNotTrainable, BrickTrainable, create_model

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """The tags, attributes and rows of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        self._in_cell = tag in ("td", "th")
        if self._in_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._in_cell:
            self.rows[-1][-1] += data


def graph(html: str) -> ET.Element:
    found = re.search("<svg.*</svg>", html, re.DOTALL)
    assert found is not None
    return ET.fromstring(found[0])


@pytest.fixture(scope="module")
def model() -> BrickCollection:
    model = create_model("test_resnet_cls_seg", num_classes={"cls": 3, "seg": 4})
    model.freeze("backbone")
    return model


def test_the_table_has_a_row_for_each_brick(model):
    header, *rows = Page(model._repr_html_()).rows
    assert header[:3] == ["brick", "kind", "module"]
    assert [row[0] for row in rows] == list(model.bricks())
    shown = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    parameters = sum(each.numel() for each in model["seg/head"].parameters())
    assert shown["seg/head"]["parameters"] == f"{parameters:,}"
    assert (shown["seg/head"]["kind"], shown["seg/head"][""]) == ("BrickTrainable", "trainable")
    assert (shown["seg/head"]["inputs"], shown["seg/head"]["outputs"]) == ("features", "seg/coarse")
    assert (shown["backbone"][""], shown["backbone"]["module"]) == ("frozen", "ResNet")
    assert shown["cls/loss"]["tags"] == "LOSS"
    assert (shown["seg/loss"]["parameters"], shown["seg/loss"]["size"], shown["seg/loss"][""]) == ("", "", "")
    size = sum(each.numel() * each.element_size() for each in model["backbone"].state_dict().values())
    assert shown["backbone"]["size"] == f"{size / 1e6:.1f} MB"


def test_the_graph_has_a_box_for_each_brick_and_input_and_a_line_for_each_pair(model):
    svg = graph(model._repr_html_())
    boxes = [group for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}rect") is not None]
    titles = [box.find(f"{SVG}title").text.partition(":")[0] for box in boxes]
    inputs = ["image", "targets/cls", "labelled/cls", "targets/seg", "labelled/seg"]
    assert sorted(titles) == sorted([*inputs, *model.bricks()])
    places = {(box.find(f"{SVG}rect").get("x"), box.find(f"{SVG}rect").get("y")) for box in boxes}
    assert len(places) == len(boxes), "no box covers another"
    lines = [group.find(f"{SVG}title").text for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}path") is not None]
    assert lines.count("features") == 1
    assert lines.count("embedding") == 1
    assert lines.count("cls/logits") == 3  # read by prediction, loss and metrics


def test_bricks_are_to_the_right_of_those_that_they_read(model):
    svg = graph(model._repr_html_())
    groups = [group for group in svg.iter(f"{SVG}g") if group.find(f"{SVG}rect") is not None]
    columns = {
        group.find(f"{SVG}title").text.partition(":")[0]: int(group.find(f"{SVG}rect").get("x")) for group in groups
    }
    writers = {name: path for path, brick in model.bricks().items() for name in brick.writes}
    for path, brick in model.bricks().items():
        assert all(columns[writers.get(read.name, read.name)] < columns[path] for read in brick.reads)


def test_every_text_is_escaped_and_nothing_is_loaded_or_run():
    class Evil(nn.Linear):
        pass

    Evil.__name__ = "<script>alert(1)</script>"
    name = '"><img src=x onerror=alert(1)>'
    collection = BrickCollection({"a": BrickModule(Evil(2, 2), [name], ["</svg><b>"], tags="<i>")})
    page = Page(collection._repr_html_())
    allowed = {"div", "p", "table", "tr", "th", "td", "details", "summary", "svg", "g", "title", "rect", "text", "path"}
    assert page.names == allowed
    assert not [key for key, _ in page.attributes if key.startswith("on") or key in ("src", "href")]
    assert page.rows[1][2:6] == ["<script>alert(1)</script>", name, "</svg><b>", "<i>"]
    assert "url(" not in collection._repr_html_()


def test_a_nested_collection_shows_its_own_bricks_and_an_empty_one_none(model):
    assert [row[0] for row in Page(model["seg"]._repr_html_()).rows[1:]] == [
        path for path in model.bricks() if path.startswith("seg/")
    ]
    empty = BrickCollection({})._repr_html_()
    assert "0 bricks" in empty
    assert "<svg" not in empty


def test_frozen_layers_of_a_trainable_brick_are_shown():
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layers[0].requires_grad_(False)
    bricks = {
        "a": BrickTrainable(layers, ["x"], ["y"]),
        "b": BrickNotTrainable(nn.Linear(2, 2), ["y"], ["z"]),
        "c": BrickTrainable(nn.ReLU(), ["z"], ["w"]),
    }
    rows = Page(BrickCollection(bricks)._repr_html_()).rows
    assert [row[-1] for row in rows] == ["", "partly frozen", "frozen", ""]


def test_the_text_of_a_collection_stays_that_of_a_module_dictionary():
    collection = BrickCollection({"head": BrickTrainable(nn.Linear(4, 2), ["features"], ["logits"])})
    assert repr(collection).startswith("BrickCollection(\n  (head): BrickTrainable(")
    assert "<" not in repr(collection)
    collection({"features": torch.zeros(1, 4)})
