"""Uploads what was exported to a repository of the Hugging Face Hub. New repositories are private."""

import shlex
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from pkedit.errors import PushError
from pkedit.export.naming import is_repository_name

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write"


def check_push(repository: str) -> None:
    """What can be known before the export takes its time: the name, and that there is a token.

    Raises:
        PushError: the name is none of a repository, or there is no token.
    """
    if not is_repository_name(repository):
        raise PushError(
            f"--push {repository}: no name of a repository; write NAME or USER/NAME, with letters, digits, -, _ and ."
        )
    if get_token() is None:
        raise PushError(f"--push needs a token of the Hugging Face Hub; {LOG_IN}")


def push(folder: Path, repository: str) -> str:
    """Uploads the folder; a repository that does not exist yet is made, private.

    Private, for a model card should be read by its author before anyone else does; the Hub's settings open it.

    Args:
        folder: what was exported.
        repository: `NAME` or `USER/NAME`.

    Returns:
        The repository's address.

    Raises:
        PushError: no token, no permission, or the Hub cannot be reached. The token is in no message.
    """
    check_push(repository)
    api = HfApi()
    try:
        url = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Edited with pkedit")
    except LocalTokenNotFoundError:
        raise PushError(f"--push needs a token of the Hugging Face Hub; {LOG_IN}. {kept(folder, repository)}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        advice = LOG_IN if status in (401, 403) else "wait a little"
        raise PushError(
            f"the Hub refused the upload to {repository} ({status}); {advice}. {kept(folder, repository)}"
        ) from None
    except Exception as error:  # noqa: BLE001 - the client's libraries raise what they like, with tokens in the text
        raise PushError(
            f"the upload to {repository} failed ({type(error).__name__}); see whether the Hub can be reached. "
            f"{kept(folder, repository)}"
        ) from None
    return str(url)


def kept(folder: Path, repository: str) -> str:
    """That the export is there all the same, and how to upload it without making it again."""
    command = shlex.join(["hf", "upload", repository, str(folder), ".", "--private"])
    return f"The export is complete in {folder}; upload it with: {command}"
