"""Models of a hub: fetched once, then read from the local cache, offline if asked for."""

import os
import re
from pathlib import Path

from patchscaler.errors import PatchScalerError

FILES = ["*.json", "*.safetensors", "README.md"]  # `*` takes sub-folders in
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")


def is_offline() -> bool:
    """HF_HUB_OFFLINE, read as the hub's own package reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def is_hub_id(source: str) -> bool:
    """owner/name, or owner/name@revision: a branch, a tag or a commit."""
    return HUB_ID.fullmatch(source) is not None


def fetch(source: str, offline: bool = False) -> Path:
    """Hub id -> folder in the local cache. offline: nothing but the cache.

    Raises PatchScalerError.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise PatchScalerError(
            f"model '{source}' is on a hub: pip install 'patchscaler[hub]'"
        ) from error
    name, _, revision = source.partition("@")
    offline = offline or is_offline()
    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=FILES, local_files_only=offline
            )
        )
    except Exception as error:  # network and hub errors have no common base class
        if offline:
            raise PatchScalerError(
                f"model '{source}' is not in the local cache, and offline nothing is fetched: "
                "go online once, or give its folder"
            ) from error
        raise PatchScalerError(
            f"model '{source}' cannot be fetched ({type(error).__name__}); download its folder "
            "and give that"
        ) from error
