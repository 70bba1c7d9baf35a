"""Download and upload of encoders on the Hugging Face Hub: `hf://owner/name[@revision][/file]`.

The Hub's own client keeps downloads in its cache and takes the access token from `hf auth login` or the
environment (HF_TOKEN). HF_ENDPOINT names another server.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ajepa.errors import AjepaError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
WEIGHTS = "model.safetensors"  # the Hub's name for a model's weights
CONFIG, EXTRACTOR = "config.json", "preprocessor_config.json"  # those of transformers
COPIED = "# Copied from ajepa "  # how the modules of a folder for transformers begin

# One segment each: owner, name, revision; then the rest of the path.
ADDRESS = re.compile(r"hf://([\w.-]+)/([\w.-]+)(?:@(refs/(?:pr|convert)/[\w.-]+|[\w.-]+))?(?:/(.+))?")


class HubError(AjepaError, RuntimeError):
    """The Hub lacks something, refuses access, or cannot be reached; the message says which."""


class Address(NamedTuple):
    """A file on the Hub; `revision` is a branch, a tag or a commit, None for the main branch."""

    repo: str
    revision: str | None
    file: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises HubError for anything but `hf://owner/name[@revision][/file]`."""
        found = ADDRESS.fullmatch(text)
        if not found:
            raise HubError(
                f"{text}: not an address on the Hub; give hf://owner/name, hf://owner/name@revision or "
                "hf://owner/name/file"
            )
        owner, name, revision, file = found.groups()
        return cls(f"{owner}/{name}", revision, file or WEIGHTS)


def download(text: str) -> Path:
    """The local path of an address's file, from the client's cache if it is there.

    Raises:
        HubError: no such repository, revision or file; no access; no network and nothing in the cache.
    """
    address = Address.parse(text)
    client = _client()
    with _explained(text, address):
        found = client.hf_hub_download(address.repo, address.file, revision=address.revision)
    return Path(found)


def check_repo(repo: str) -> Address:
    """Raises HubError unless it is owner/name."""
    address = Address.parse(SCHEME + repo)
    if address != Address(repo, None, WEIGHTS):
        raise HubError(f"{repo}: not a repository's name; give owner/name")
    return address


def upload(folder: Path, repo: str, files: list[str], *, private: bool, message: str) -> str:
    """Create the repository if necessary and commit files of a folder to it; returns its address.

    Args:
        repo: owner/name.
        files: names in the folder; other files in it are not uploaded.
        private: whether a new repository is private; an existing one does not change.
        message: of the commit.

    Raises:
        HubError: not owner/name, no token, no permission, or no network.
    """
    address = check_repo(repo)
    client = _client()
    with _explained(SCHEME + repo, address):
        client.create_repo(repo, private=private, exist_ok=True)
        client.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=files, commit_message=message)
    return SCHEME + repo


def _client() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise HubError("the Hub needs its client: pip install 'ajepa[hub]'") from error
    # The client reads HF_ENDPOINT only when it is imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


@contextmanager
def _explained(text: str, address: Address) -> Iterator[None]:
    """Turn the client's errors into one sentence with the remedy."""
    from huggingface_hub import errors

    log_in = "run `hf auth login` or set HF_TOKEN"
    offline = "not in the cache, and the Hub cannot be reached (or HF_HUB_OFFLINE is set)"
    missing = f"the repository has no {address.file}; hf://{address.repo}/FILE names another file"
    problems: dict[type[Exception], str] = {  # the first class that fits counts
        errors.GatedRepoError: "request access on its page, then run `hf auth login`",
        errors.RepositoryNotFoundError: f"no such repository, or it is private; {log_in}",
        errors.RevisionNotFoundError: f"the repository has no revision {address.revision!r}",
        errors.LocalEntryNotFoundError: offline,
        errors.EntryNotFoundError: missing,
        errors.OfflineModeIsEnabled: offline,
        errors.LocalTokenNotFoundError: f"no access token; {log_in}",
    }
    try:
        yield
    except tuple(problems) as error:  # before the classes that they derive from
        problem = next(problem for kind, problem in problems.items() if isinstance(error, kind))
        raise HubError(f"{text}: {problem}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        hint = f"; {log_in}" if status in {401, 403} else ""
        reason = error.server_message or str(error).strip().splitlines()[0]
        raise HubError(f"{text}: the Hub refused ({status}): {reason}{hint}") from error
    except errors.HTTPError as error:  # of the HTTP library of the client
        raise HubError(f"{text}: the Hub cannot be reached ({error})") from error
    except (errors.HFValidationError, OSError, RuntimeError) as error:  # such as a full disk
        raise HubError(f"{text}: {error}") from error
