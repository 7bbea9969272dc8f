"""The pages of a site without their demos: escaped, complete, relative."""

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import brickyard
from brickyard import BrickInputError, BrickIntegrityError, BrickNotFoundError, create_model
from brickyard.cli.page import page as page_command
from brickyard.page.runtime import VERSION, Runtime, copy_runtime
from tests.page.html import Page

SCRIPT, QUOTES = "<script>alert(1)</script>", "\"quoted\" & 'single' <b>"
REASON = f"it cannot be exported: {SCRIPT}"
DIGITS = "test_resnet_cls-multilabel_seg-tower_det.digits_v1"


@pytest.fixture(autouse=True)
def _without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brickyard.page.site.export_demo", lambda model, file: REASON)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stored model whose names and texts are markup."""
    folder = tmp_path_factory.mktemp("models") / f'{QUOTES}"><img src=x onerror=alert(2)>'
    create_model("test_resnet_cls", num_classes=2, labels=[SCRIPT, QUOTES]).save_pretrained(folder)
    head = folder / "cls" / "head.json"
    values = json.loads(head.read_text(encoding="utf-8"))
    values |= {"licence": SCRIPT, "source": QUOTES, "datasets": [SCRIPT], "metrics": {QUOTES: 0.5}}
    head.write_text(json.dumps(values), encoding="utf-8")
    manifest = json.loads((folder / "bricks.json").read_text(encoding="utf-8"))
    manifest["bricks"]["cls/head"]["config"] = hashlib.sha256(head.read_bytes()).hexdigest()
    (folder / "bricks.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def site(hostile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("brickyard.page.site.export_demo", lambda model, file: REASON)
        brickyard.write_page(folder, [hostile, DIGITS])
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> list[Page]:
    files = sorted(site.rglob("*.html"))
    assert len(files) == 3
    return [Page(file) for file in files]


def test_texts_of_a_model_stay_texts(pages):
    index, hostile, _ = pages
    assert SCRIPT in hostile.text
    assert QUOTES in hostile.text
    assert REASON in hostile.text
    assert "onerror=alert(2)" in hostile.text
    alternatives = [values.get("alt", "") for tag, values in index.elements + hostile.elements if tag == "img"]
    assert any(SCRIPT in text for text in alternatives)
    for page in pages:
        assert not [tag for tag, values in page.elements if tag == "script" and not values.get("src")]


def test_nothing_inline_is_a_script_or_a_style(pages):
    for page in pages:
        assert "style" not in {tag for tag, _ in page.elements}
        names = {name for _, values in page.elements for name in values}
        assert not {name for name in names if name.startswith("on") or name == "style"}


def test_the_policy_allows_only_the_site(pages):
    for page in pages:
        policy = page.policy
        assert policy["default-src"] == ["'none'"]
        assert policy["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
        assert policy["style-src"] == policy["connect-src"] == ["'self'"]
        assert policy["base-uri"] == policy["form-action"] == ["'none'"]


def test_every_link_is_relative_and_leads_to_a_file(site, pages):
    for page in pages:
        links = [link for link in page.links if link != "data:,"]
        assert links
        for link in links:
            assert (page.file.parent / link).resolve().is_relative_to(site.resolve())
            assert (page.file.parent / link).is_file(), link


def test_every_image_has_a_text_or_is_named_by_what_is_around_it(pages):
    for page in pages:
        images = [values for tag, values in page.elements if tag == "img"]
        assert images
        assert all("alt" in values for values in images)


def test_a_page_has_what_is_stored_about_the_model(pages):
    text = pages[2].text
    info = brickyard.model_info(DIGITS)
    assert pages[2].elements  # the page of the digits
    for expected in (
        "apache-2.0",
        info.backbone,
        f"{sum(info.parameters.values()):,}",
        f"MeanIoU {info.metrics['seg/MeanIoU']:.3g}",
        "96 x 96 pixels",
        f'brickyard.create_model("{DIGITS}", pretrained=True)',
    ):
        assert expected in text
    assert "svg" in {tag for tag, _ in pages[2].elements}


def test_the_samples_are_the_images_in_the_model_s_folder(pages):
    (captions,) = [[text for text in page.texts if text.startswith("digits ")] for page in pages[2:]]
    assert captions == ["digits 1", "digits 2", "digits 3"]


def test_heads_fit_as_swap_takes_them(pages, hostile):
    index = pages[0]
    cells = [text for text in index.texts if text in ("exact", "input", "shape", "no")]
    model = create_model(DIGITS, pretrained=True)
    other = brickyard.BrickCollection.from_pretrained(hostile)
    checks = ("exact", "input", "shape")

    def closest(head, of, backbone):
        info = brickyard.inspect_brick(f"zoo://{DIGITS}/{head}" if of is model else f"local-dir:{hostile}/{head}")
        return next((check for check in checks if not brickyard.fits(info, backbone, check)), "no")

    rows = [("cls", other), *((head, model) for head in ("cls", "seg", "det"))]
    assert cells == [closest(head, of, backbone) for head, of in rows for backbone in (other, model)]


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "CNAME").write_text("example.org")
    with pytest.raises(FileExistsError, match="--overwrite"):
        brickyard.write_page(tmp_path, [DIGITS])
    assert [file.name for file in tmp_path.iterdir()] == ["CNAME"]


def test_overwriting_removes_the_files_of_the_site_before_and_no_others(tmp_path, hostile):
    outside = tmp_path / "outside.txt"
    outside.write_text("keep")
    site = tmp_path / "site"
    site.mkdir()
    (site / "CNAME").write_text("example.org")
    (site / "models").mkdir()
    (site / "models" / "old.html").write_text("old")
    names = ["models/old.html", "../outside.txt", str(outside), "models/../CNAME", 3]
    (site / "site.json").write_text(json.dumps({"files": names}))
    brickyard.write_page(site, [DIGITS], overwrite=True)
    assert outside.exists()
    assert (site / "CNAME").exists()
    assert not (site / "models" / "old.html").exists()
    listed = json.loads((site / "site.json").read_text())["files"]
    files = {file.relative_to(site).as_posix() for file in site.rglob("*") if file.is_file()}
    assert files == {*listed, "CNAME"}


def test_a_failure_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    def fails(model, file):
        raise OSError("no space left")

    monkeypatch.setattr("brickyard.page.site.export_demo", fails)
    with pytest.raises(OSError, match="no space"):
        brickyard.write_page(tmp_path / "site", [DIGITS])
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["test_resnet_cls", "model.onnx"])
def test_only_stored_models_have_a_page(tmp_path, name):
    with pytest.raises(BrickInputError, match="a stored model"):
        brickyard.write_page(tmp_path, [name])


def test_a_runtime_of_another_version_is_refused(tmp_path):
    (tmp_path / "dist").mkdir()
    with pytest.raises(BrickNotFoundError, match=f"npm pack onnxruntime-web@{VERSION}"):
        copy_runtime(tmp_path, tmp_path / "target")
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / "dist" / name).write_text("other")
    with pytest.raises(BrickIntegrityError, match="expected sha384-"):
        copy_runtime(tmp_path, tmp_path / "target")


def test_the_runtime_of_a_cdn_has_the_version_and_hashes():
    runtime = Runtime().to_json("../../")
    assert runtime["module"] == Runtime().sources[0]
    assert runtime["wasm"] == Runtime().sources[1]
    assert all(url.startswith("https://") and f"@{VERSION}/" in url for url in Runtime().sources)
    assert Runtime("assets/runtime").to_json("../../")["wasm"].startswith("../../assets/runtime/")
    assert Runtime("assets/runtime").sources == ()


def test_the_command_writes_a_site(tmp_path):
    result = CliRunner().invoke(page_command, [str(tmp_path / "site"), DIGITS])
    assert result.exit_code == 0, result.output
    assert "index.html" in result.output
    assert (tmp_path / "site" / "index.html").is_file()


def test_the_command_serves_the_site_until_it_is_interrupted(tmp_path, monkeypatch):
    def interrupted(server):
        raise KeyboardInterrupt

    monkeypatch.setattr("brickyard.page.server.ThreadingHTTPServer.serve_forever", interrupted)
    result = CliRunner().invoke(page_command, [str(tmp_path / "site"), DIGITS, "--serve", "--port", "0"])
    assert result.exit_code == 0, result.output
    assert "Serving on http://127.0.0.1:" in result.output


def test_a_model_of_other_images_than_photos_has_a_page_without_predictions(tmp_path):
    create_model("test_resnet_cls", num_classes=2, in_chans=4).save_pretrained(tmp_path / "model")
    brickyard.write_page(tmp_path / "site", [tmp_path / "model"])
    (file,) = (tmp_path / "site" / "models").rglob("*.html")
    assert "4 x " in Page(file).text
    assert "img" not in {tag for tag, _ in Page(file).elements}
