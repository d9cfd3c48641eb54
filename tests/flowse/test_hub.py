"""Laws of addresses: a model comes from the Hugging Face Hub as it was pushed; what cannot be fetched is one line."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from flowse.cli import main
from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import ExportError
from flowse.files import sha256_file
from flowse.hub import find_model, push_to_hub
from flowse.pretrained import resolve
from tests.tiny import write_model

COMMIT = "0123456789" * 4


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's protocol as a download of `me/model` needs; the server's `folder` holds the files."""

    def do_HEAD(self) -> None:
        """Answer with the size and the digest of a file."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Answer with a list of files, or with a file."""
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, body: bool) -> None:
        folder: Path = self.server.folder  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        resolved = f"/me/model/resolve/{COMMIT}/"
        if path in ("/api/models/me/model/revision/main", f"/api/models/me/model/revision/{COMMIT}"):
            siblings = [{"rfilename": name} for name in files]
            self._send(json.dumps({"id": "me/model", "sha": COMMIT, "siblings": siblings}).encode(), {}, body)
        elif path.startswith(f"/api/models/me/model/tree/{COMMIT}"):
            sizes = [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": COMMIT} for name in files
            ]
            self._send(json.dumps(sizes).encode(), {}, body)
        elif path.startswith(resolved) and path.removeprefix(resolved) in files:
            file = folder / path.removeprefix(resolved)
            self._send(file.read_bytes(), {"ETag": f'"{sha256_file(file)}"', "X-Repo-Commit": COMMIT}, body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Hub on this machine; what lies in the folder that this returns is its repository `me/model`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = False  # closing the server waits for them, so that no connection is left
    server.folder = tmp_path / "repository"  # type: ignore[attr-defined]
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path / "repository"
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_on_the_hub_is_fetched_whole_and_enhances(hub: Path) -> None:
    write_model(hub)
    (hub / "notes.txt").write_text("not fetched")
    for address in ("hf:me/model", f"hf:me/model@{COMMIT}"):
        folder = find_model(address)
        fetched = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        assert fetched == {
            "README.md", "config.json", "model.safetensors", "vocoder/config.yaml", "vocoder/pytorch_model.bin"
        }  # fmt: skip
    assert repr(Enhancer.from_pretrained("hf:me/model")).startswith("Enhancer(hf:me/model: flow")


def test_what_the_hub_does_not_have_is_one_line(hub: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hub.mkdir()
    (hub / "README.md").write_text("another model")
    with pytest.raises(UserError, match=r"no model of this project: there is no config\.json"):
        find_model("hf:me/model")
    for address in ("hf:me/other", "hf:", "hf:a/b/c", "hf:me/model@nothing"):
        with pytest.raises(UserError, match=f"^{address}: the Hugging Face Hub says: "):
            find_model(address)
    (tmp_path / "a.wav").write_bytes(b"")
    assert main(["enhance", str(tmp_path / "a.wav"), str(tmp_path / "b.wav"), "--model", "hf:me/other"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "Fetching" not in line and line]
    assert len(said) == 1
    assert said[0].startswith("flowse: hf:me/other: the Hugging Face Hub says: 404")


def test_a_model_is_pushed_with_its_card_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[tuple[str, Any]] = []

    class Api:
        def create_repo(self, name: str, **options: Any) -> None:
            said.append((name, options))

        def upload_folder(self, **options: Any) -> None:
            said.append(("upload", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    folder = write_model(tmp_path / "model")
    assert push_to_hub(folder, "hf:me/model") == "hf:me/model"
    assert main(["push", str(folder), "me/model", "--public"]) == 0
    assert capsys.readouterr().out == "hf:me/model\n"
    assert [said[0], said[2]] == [("me/model", {"private": private, "exist_ok": True}) for private in (True, False)]
    assert said[1] == said[3]
    assert (said[1][1]["repo_id"], said[1][1]["folder_path"]) == ("me/model", folder)
    with pytest.raises(ExportError, match="is no model folder"):
        push_to_hub(tmp_path, "me/model")


def test_without_huggingface_hub_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"hf:me/model: this needs pip install 'flowse-pipeline\[hub\]'"):
        find_model("hf:me/model")


def test_paths_and_names_stay_what_they_are_and_unknown_schemes_name_the_known(tmp_path: Path) -> None:
    (tmp_path / "hf:me").mkdir()
    assert find_model(str(tmp_path / "hf:me")) == tmp_path / "hf:me"
    assert find_model("flowse-small") == resolve("flowse-small")
    with pytest.raises(FileNotFoundError, match="neither a path nor an embedded model"):
        find_model("no:thing")
    with pytest.raises(UserError, match=r"fetches ftp:/ addresses; known: hf:owner/name.*flowse-pipeline\[pipeline\]"):
        find_model("ftp:/host/model")


def test_the_embedded_enhancers_card_is_what_the_hub_reads() -> None:
    data = huggingface_hub.ModelCard.load(resolve("flowse-small") / "README.md").data
    assert (data.license, data.pipeline_tag, data.library_name) == ("cc-by-sa-4.0", "audio-to-audio", "flowse-pipeline")
