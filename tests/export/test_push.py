"""Exports go to the Hub, private; what goes wrong is one line, and a token is in none of them."""

import shlex
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub.cli.hf import app
from huggingface_hub.errors import HfHubHTTPError

from pkedit.errors import PushError
from pkedit.export import push as pushing
from pkedit.export.push import check_push, kept, push

TOKEN = "hf_averysecrettoken"


class Address(str):
    repo_id = "me/safer"


class FakeApi:
    """Keeps what it is asked for, and fails where a test says so."""

    calls: list[tuple[str, dict[str, Any]]]
    error: Exception | None = None

    def create_repo(self, repo_id: str, **options: Any) -> Address:
        self.calls.append(("create", {"repo_id": repo_id, **options}))
        return Address("https://huggingface.co/me/safer")

    def upload_folder(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    api = FakeApi()
    api.calls = []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(pushing, "HfApi", lambda: api)
    return api


def refused(status: int) -> HfHubHTTPError:
    response = httpx2.Response(status, request=httpx2.Request("POST", f"https://huggingface.co/?token={TOKEN}"))
    return HfHubHTTPError(f"{status} with {TOKEN}", response=response)


def test_a_new_repository_is_private_and_gets_the_whole_folder(hub: FakeApi, tmp_path: Path) -> None:
    assert push(tmp_path, "safer") == "https://huggingface.co/me/safer"
    (_, made), (_, uploaded) = hub.calls
    assert made == {"repo_id": "safer", "private": True, "exist_ok": True}
    assert uploaded["repo_id"] == "me/safer"
    assert uploaded["folder_path"] == tmp_path


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(403), r"refused the upload to me/safer \(403\); log in with `hf auth login`"),
        (refused(500), r"refused the upload to me/safer \(500\); wait a little"),
        (httpx2.ConnectError(f"no route, {TOKEN}"), "me/safer failed .ConnectError.; see whether the Hub can be"),
        (
            RuntimeError(f"Error while uploading: Bearer {TOKEN} refused"),
            "the upload to me/safer failed .RuntimeError.",
        ),
        (ValueError(f"no header {TOKEN}"), "the upload to me/safer failed .ValueError."),
    ],
)
def test_what_goes_wrong_is_one_line_without_the_token(
    hub: FakeApi, tmp_path: Path, error: Exception, message: str
) -> None:
    hub.error = error
    with pytest.raises(PushError, match=message) as raised:
        push(tmp_path, "me/safer")
    assert TOKEN not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is None
    command = f"hf upload me/safer {tmp_path} . --private"
    assert str(raised.value).endswith(f"The export is complete in {tmp_path}; upload it with: {command}")


def test_without_the_network_the_real_client_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(PushError, match=r"failed .OfflineModeIsEnabled.; see whether the Hub can be reached"):
        push(tmp_path, "me/safer")


def test_name_and_token_are_looked_at_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "get_token", lambda: None)
    with pytest.raises(PushError, match="needs a token of the Hugging Face Hub; log in with"):
        check_push("me/safer")
    with pytest.raises(PushError, match="no name of a repository"):
        check_push("me/not/a repository")


def test_the_command_that_is_named_exists(tmp_path: Path) -> None:
    upload = app.commands["upload"].materialize()  # type: ignore[attr-defined]
    arguments = shlex.split(kept(tmp_path / "a b", "me/safer").partition("upload it with: ")[2])
    assert arguments[:2] == ["hf", "upload"]
    context = upload.make_context("upload", arguments[2:])
    assert context.params["repo_id"] == "me/safer"
    assert context.params["local_path"] == str(tmp_path / "a b")
    assert context.params["path_in_repo"] == "."
    assert context.params["private"] is True
