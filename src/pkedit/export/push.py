"""Uploads what was exported to a repository of the Hugging Face Hub. New repositories are private."""

from pathlib import Path

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils._validators import validate_repo_id

from pkedit.errors import PushError, first_line

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write"


def check_push(repository: str) -> None:
    """What can be known before the export takes its time: the name, and that there is a token.

    Raises:
        PushError: the name is none of a repository, or there is no token.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise PushError(f"--push {repository}: no name of a repository ({first_line(error)})") from None
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
        raise PushError(f"--push needs a token of the Hugging Face Hub; {LOG_IN}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        advice = LOG_IN if status in (401, 403) else "try again later"
        raise PushError(
            f"the Hub refused the upload to {repository} ({status}); {advice}. The export is in {folder}"
        ) from None
    except (OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise PushError(
            f"the Hub cannot be reached ({type(error).__name__}); nothing was uploaded. The export is in {folder}"
        ) from None
    return str(url)
