import hashlib
import json
import pickle
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torchvision
from click.testing import CliRunner
from safetensors.torch import save_file

from brickyard import (
    BrickCollection,
    BrickIntegrityError,
    BrickMismatchError,
    HubConnectionError,
    UnknownNameError,
    UnsafeBrickError,
    create_model,
    import_model,
    inspect_brick,
    list_models,
    model_info,
)
from brickyard.cli.main import main
from brickyard.importers.importing import IMPORTS

SOURCE = "torchvision:fcn_resnet50"
ENTRY = IMPORTS[SOURCE]


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None).state_dict()


@pytest.fixture
def published(state, tmp_path, monkeypatch):
    """Address and hash of a published file that lies in torch's cache."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    file = tmp_path / "checkpoint.pth"
    torch.save(state, file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    entry = replace(ENTRY, url=f"https://example.org/fcn-{sha256[:8]}.pth")
    monkeypatch.setitem(IMPORTS, SOURCE, entry)
    file.rename(tmp_path / "hub" / "checkpoints" / entry.file_name)
    return entry.url, sha256


def test_an_unknown_source_lists_the_nearest():
    with pytest.raises(UnknownNameError, match="'torchvision:fcn_resnet50'"):
        import_model("torchvision:fcn_resnet5")


def test_missing_extra_and_misshapen_tensors_are_one_error(state):
    wrong = {key: tensor for key, tensor in state.items() if key not in ("classifier.4.bias", "backbone.conv1.weight")}
    wrong |= {"backbone.extra": torch.zeros(1), "neck.weight": torch.zeros(1), "classifier.4.weight": torch.zeros(3)}
    wrong["backbone.bn1.bias"] = torch.zeros(())
    with pytest.raises(BrickMismatchError) as error:
        import_model(SOURCE, weights=wrong)
    texts = error.value.problems
    for name in ("classifier.4.bias", "backbone.conv1.weight", "backbone.extra", "neck.weight", "classifier.4.weight"):
        assert sum(f"'{name}'" in text for text in texts) == 1
    assert len(texts) == 6


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps({"classifier.4.bias": Evil()}, protocol=2))
    with pytest.raises(UnsafeBrickError, match="is refused"):
        import_model(SOURCE, weights=file)
    torch.save({"classifier.4.bias": Evil()}, file)
    with pytest.raises(UnsafeBrickError, match="is refused"):
        import_model(SOURCE, weights=file)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises((UnsafeBrickError, BrickIntegrityError), match=r"weights\.pth"):
        import_model(SOURCE, weights=file)
    torch.save([1, 2], file)
    with pytest.raises(BrickIntegrityError, match="tensors by name"):
        import_model(SOURCE, weights=file)


def test_a_file_of_the_published_name_must_have_its_hash(tmp_path, state):
    file = tmp_path / ENTRY.file_name
    torch.save(state, file)
    with pytest.raises(BrickIntegrityError, match=rf"(?s){ENTRY.hash_prefix}.*{ENTRY.url}"):
        import_model(SOURCE, weights=file)
    result = CliRunner().invoke(main, ["import", SOURCE, str(tmp_path / "out"), "--weights", str(file)])
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"text", pickle.dumps({"classifier.4.bias": Evil()}, protocol=2), None])
def test_a_refused_checkpoint_writes_nothing(tmp_path, state, content):
    file = tmp_path / "weights.pth"
    if content is None:
        torch.save({**state, "extra": torch.zeros(1)}, file)
    else:
        file.write_bytes(content)
    result = CliRunner().invoke(main, ["import", SOURCE, str(tmp_path / "out"), "--weights", str(file)])
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    assert str(file) in result.output
    assert [each.name for each in tmp_path.iterdir()] == ["weights.pth"]


class Downloads(BaseHTTPRequestHandler):
    """Serves one file; a second attribute of the server cuts it, and says how long it would have been."""

    def do_GET(self):
        self.send_response(200 if self.server.content else 404)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.sent])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(published, monkeypatch, tmp_path):
    """A server with the published file, which is not in torch's cache."""
    (file,) = (tmp_path / "hub" / "checkpoints").iterdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), Downloads) as server:
        server.content, server.sent = file.read_bytes(), None
        server.url = f"http://127.0.0.1:{server.server_port}/{file.name}"
        file.unlink()
        monkeypatch.setitem(IMPORTS, SOURCE, replace(IMPORTS[SOURCE], url=server.url))
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def in_cache(tmp_path):
    return [file.name for file in (tmp_path / "hub" / "checkpoints").iterdir()]


def test_an_interrupted_download_keeps_nothing_and_is_repeated(server, tmp_path):
    server.sent = len(server.content) // 2
    with pytest.raises(HubConnectionError, match=rf"after {server.sent} of .*{server.url}"):
        import_model(SOURCE)
    assert in_cache(tmp_path) == []
    server.sent = None
    assert import_model(SOURCE)["seg/head"].metadata["licence"] == "bsd-3-clause"
    assert in_cache(tmp_path) == [server.url.rpartition("/")[2]]
    server.content = b""
    import_model(SOURCE)  # from the cache


def test_a_download_of_another_hash_keeps_nothing(server, tmp_path):
    server.content = server.content[:-1] + b"?"
    with pytest.raises(BrickIntegrityError, match=rf"{server.url} has the sha256 [0-9a-f]{{64}}, expected one that"):
        import_model(SOURCE)
    assert in_cache(tmp_path) == []


def test_a_file_that_the_server_lacks_is_told_with_its_address(server, tmp_path):
    server.content = b""
    with pytest.raises(HubConnectionError, match=rf"404.*{server.url}"):
        import_model(SOURCE)
    assert in_cache(tmp_path) == []


def test_without_a_network_the_error_states_address_and_argument(server, tmp_path):
    server.shutdown()
    server.socket.close()
    file = server.url.rpartition("/")[2]
    with pytest.raises(HubConnectionError, match=rf"refused.*Download {server.url} .*weights='{file}'"):
        import_model(SOURCE)
    result = CliRunner().invoke(main, ["import", SOURCE, str(tmp_path / "out")])
    assert result.exit_code == 1
    assert f"Download {server.url} on another machine" in result.output
    assert f"--weights {file}" in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused_before_the_download(server, tmp_path):
    server.content = b""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    result = CliRunner().invoke(main, ["import", SOURCE, str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "is not empty. Pass --overwrite" in result.output
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


def test_a_safetensors_file_and_a_training_checkpoint_are_read(tmp_path, state):
    save_file(state, tmp_path / "weights.safetensors")
    torch.save({"model": state, "epoch": 3}, tmp_path / "weights.pth")
    for file in ("weights.safetensors", "weights.pth"):
        model = import_model(SOURCE, weights=tmp_path / file)
        assert torch.equal(model["seg/head"].module.state_dict()["4.bias"], state["classifier.4.bias"])


def test_weights_of_the_user_get_no_licence_and_share_no_memory(state):
    model = import_model(SOURCE, weights=state)
    assert model["seg/head"].metadata == {"source": f"{SOURCE} with weights of the user"}
    before = state["classifier.4.bias"].clone()
    with torch.no_grad():
        model["seg/head"].module[4].bias.add_(1)
    assert torch.equal(state["classifier.4.bias"], before)


def test_a_saved_import_states_source_licence_and_hash(published, tmp_path):
    url, sha256 = published
    result = CliRunner().invoke(main, ["import", SOURCE, str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for path in ("backbone", "seg/head"):
        config = json.loads((tmp_path / "out" / f"{path}.json").read_text())
        assert (config["source"], config["licence"]) == (f"{SOURCE}, {url}", "bsd-3-clause")
        assert config["source_sha256"] == sha256
    info = inspect_brick(str(tmp_path / "out" / "seg/head"))
    assert (len(info.labels), info.labels[:2]) == (21, ["__background__", "aeroplane"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: bsd-3-clause" in card
    assert f"# {ENTRY.name}\n" in card
    assert f"Weights: {SOURCE}, {url} (sha256 `{sha256}`)." in card
    assert "miou COCO-val2017-VOC-labels 60.5" in card


def test_an_import_keeps_its_name_until_its_heads_are_others(published, tmp_path):
    model = import_model(SOURCE)
    model.save_pretrained(tmp_path / "first")
    loaded = BrickCollection.from_pretrained(tmp_path / "first")
    with torch.no_grad():
        loaded["seg/head"].module[4].bias.add_(1)
    loaded.save_pretrained(tmp_path / "trained")
    for folder in ("first", "trained"):
        assert json.loads((tmp_path / folder / "bricks.json").read_text())["collection"] == ENTRY.name
        assert model_info(f"local-dir:{tmp_path / folder}").name == ENTRY.name
    config = json.loads((tmp_path / "trained" / "seg" / "head.json").read_text())
    assert config["licence"] == "bsd-3-clause"
    assert not {"source", "source_sha256", "metrics"} & set(config), "they are those of other weights"
    loaded["seg"] = create_model("resnet50_seg-fcn", num_classes=2, output_stride=8)["seg"]
    loaded.save_pretrained(tmp_path / "other")
    assert json.loads((tmp_path / "other" / "bricks.json").read_text())["collection"] == "resnet50_seg-fcn"


def test_create_model_imports_by_name(published, monkeypatch):
    monkeypatch.setattr("brickyard.create._on_hub", lambda name: None)
    trained = create_model(ENTRY.name, pretrained=True)
    assert trained["seg/head"].metadata["source_sha256"] == published[1]
    fresh = create_model(ENTRY.name)
    assert repr(fresh) == repr(trained)
    assert fresh["seg/head"].head == trained["seg/head"].head
    assert fresh["backbone"].provides == trained["backbone"].provides


def test_every_import_is_listed():
    names = list_models(pretrained=True)
    for entry in IMPORTS.values():
        assert entry.name in names
        assert not set(list_models(entry.name, pretrained=True)) - set(list_models(pretrained=True, tasks=entry.tasks))
    assert len({entry.name for entry in IMPORTS.values()}) == len(IMPORTS)


def large_is_slow(source):
    is_large = source.startswith("dinov2:") and source not in ("dinov2:vits14", "dinov2:vits14_reg4_linear4")
    return pytest.param(source, marks=pytest.mark.slow if is_large else [])


@pytest.mark.parametrize("source", [*map(large_is_slow, IMPORTS)])
def test_every_import_is_described(source):
    entry = IMPORTS[source]
    info = model_info(entry.name)
    assert (info.name, info.weights) == (entry.name, source)
    assert set(info.licence.values()) == {entry.licence}
    assert info.labels == {head: list(labels) for head, labels in entry.labels.items()}
    assert list(info.metrics.values()) == [value for values in entry.metrics.values() for value in values.values()]
    assert info.spec.input.size == entry.image_size


def test_the_command_lists_every_source_as_a_table():
    lines = CliRunner().invoke(main, ["import", "--list"]).output.splitlines()
    assert all(title in lines[1] for title in ("source", "model", "tasks", "metrics", "licence", "download"))
    for entry in IMPORTS.values():
        (row,) = (line for line in lines if f" {entry.source} " in line)
        numbers = [f"{name} {value:g}" for values in entry.metrics.values() for name, value in values.items()]
        cells = [entry.name, *entry.tasks, *numbers, entry.licence, f"{entry.size / 1e6:.1f} MB"]
        assert all(cell in row for cell in cells)
    assert CliRunner().invoke(main, ["import", SOURCE]).exit_code == 2
