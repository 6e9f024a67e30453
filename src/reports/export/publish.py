"""Uploading an exported folder to the Hugging Face Hub."""

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from src.core.errors import UserError


def publish(folder: Path, files: list[Path], repository: str, private: bool) -> str:
    """Upload the files of a folder as a model of the Hub, after saying so; return its address.

    Raises UserError for a repository that is no user/name, and where the Hub refuses.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"publish={repository}: give user/name, as on the Hugging Face Hub")
    api, megabytes = HfApi(), sum(file.stat().st_size for file in files) / 1e6
    address = f"{api.endpoint}/{repository}"
    names = ", ".join(file.name for file in files)
    kind = "private" if private else "public"
    print(f"uploading {len(files)} files ({names}), {megabytes:.1f} MB, to {address} ({kind})", flush=True)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[file.name for file in files],
            commit_message="Upload a model of cat faces",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"publish={repository}: the Hub did not take it ({reason}); log in by `hf auth login`, or set HF_TOKEN to "
            f"a token that may write; the folder {folder} is complete"
        ) from error
    return address
