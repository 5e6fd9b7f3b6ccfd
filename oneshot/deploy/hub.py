"""Exported networks on the Hugging Face Hub, or in a folder: ``ExportedNetwork`` and ``hf://owner/name``."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from oneshot.errors import missing_extra
from oneshot.supernets.base import Subnet

from .card import CARD
from .export import PREFIX, all_or_nothing, load
from .manifest import MANIFEST, read_manifest, recorded_content

NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)  # of a repository on the Hub


class ExportedNetwork:
    """An export as a thing: the network, what its manifest says, and its files.

    The methods have the names of ``huggingface_hub.ModelHubMixin``. They read and write what
    :func:`~oneshot.deploy.export.export_subnet` writes, so a network on the Hub has its ONNX file, ``predict.py`` and
    model card, too. Nothing is unpickled, and every file is compared with its checksum in the manifest.

    Args:
        folder: What :func:`~oneshot.deploy.export.export_subnet` wrote.
        trust: See :func:`~oneshot.deploy.export.load`.

    Attributes:
        folder: The folder.
        manifest: What is said of the network: classes, preprocessing, metrics, costs.
        network: The network on the CPU, in eval mode.

    Raises:
        ValueError: If it is no export, has no manifest, or one of the two files of the network is damaged.

    Example:
        >>> from oneshot.supernets import NASBench201Network
        >>> from oneshot.deploy.export import export_subnet
        >>> import tempfile
        >>> arch = "|skip_connect~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_1x1~2|"
        >>> folder = tempfile.TemporaryDirectory()
        >>> network = NASBench201Network(arch, channels=4, cells_per_stage=1, image_size=8)
        >>> written = export_subnet(network, folder.name + "/one", formats=())
        >>> ExportedNetwork.from_pretrained(written).save_pretrained(folder.name + "/two").name
        'two'
        >>> folder.cleanup()
    """

    def __init__(self, folder: str | Path, *, trust: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.network: Subnet = load(self.folder, trust=trust)
        if (manifest := read_manifest(self.folder)) is None:
            raise ValueError(f"An exported network must have a {MANIFEST}; {folder} has none. Export again.")
        self.manifest = manifest

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        trust: Sequence[str] = (),
    ) -> ExportedNetwork:
        """Read an exported network from a folder or from the Hub.

        Args:
            name: A folder, or ``owner/name`` on the Hub, with or without ``hf://``. A folder comes first.
            revision: Branch, tag or commit on the Hub.
            token: Of the Hub, for networks that are not public; by default the one of ``hf auth login``.
            cache_dir: Where files of the Hub are kept.
            local_files_only: Use what was fetched before, and open no connection.
            trust: See :func:`~oneshot.deploy.export.load`.

        Raises:
            ValueError: If it is no export, or a file of it is damaged.
            MissingExtraError: If it is on the Hub, and huggingface_hub is not installed.
        """
        folder = Path(name)
        if str(name).startswith(PREFIX) or not folder.is_dir():
            folder = fetched(
                str(name), revision=revision, local_files_only=local_files_only, token=token, cache_dir=cache_dir
            )
        found = cls(folder, trust=trust)
        found.verify()
        return found

    def verify(self) -> None:
        """Compare every file that the manifest lists with its checksum.

        The model card is left out: its owner may change it, and should, for the licence.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        for file in self._files():
            if file not in (CARD, MANIFEST):
                recorded_content(self.folder, file)

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Copy the files into another folder: all of them, or none. What the manifest does not list stays behind.

        Args:
            folder: Folder to make.
            overwrite: Replace an earlier export.

        Returns:
            The folder.

        Raises:
            ValueError: If a file is missing or damaged.
            FileExistsError: If the folder exists and is not to be replaced, or is no export.
        """
        self.verify()
        with all_or_nothing(Path(folder), overwrite) as new:
            for file in self._files():
                shutil.copyfile(self.folder / file, new / file)
        return Path(folder)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Network exported by oneshot",
        create_pr: bool = False,
    ) -> str:
        """Upload the files to the Hub. Who uploads writes a licence into the header of ``README.md`` first.

        Args:
            name: ``owner/name``; made if it is not there.
            private: Whether a new repository is private; by default as the owner has set it.
            token: Of the Hub, with the right to write; by default the one of ``hf auth login``.
            revision: Branch to write to.
            commit_message: Of the change.
            create_pr: Propose the change instead.

        Returns:
            Address of the change.

        Raises:
            ValueError: If the name is none, or a file is missing or damaged.
            MissingExtraError: If huggingface_hub is not installed.
        """
        name = checked_name(name.removeprefix(PREFIX))
        self.verify()
        hub = _hub()
        api = hub.HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=self.folder,
            allow_patterns=self._files(),
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
        return str(done)

    def _files(self) -> list[str]:
        return [MANIFEST, *listed(self.manifest["files"])]


def fetched(
    name: str,
    *,
    revision: str | None = None,
    only: Sequence[str] | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> Path:
    """Fetch the manifest of an export on the Hub and the files that it lists, and return their folder.

    Args:
        name: ``owner/name`` or ``owner/name@revision``, with or without ``hf://``.
        revision: Branch, tag or commit.
        only: Files to fetch besides the manifest; by default all that it lists.
        local_files_only: Open no connection.
        **options: Of ``huggingface_hub.hf_hub_download``: ``token``, ``cache_dir``.

    Raises:
        ValueError: If the name is none, the manifest is damaged, or a file cannot be fetched.
        MissingExtraError: If huggingface_hub is not installed.
    """
    name, _, given = name.removeprefix(PREFIX).partition("@")
    name, hub = checked_name(name), _hub()
    options |= {"revision": given or revision, "local_files_only": local_files_only}

    def fetch(file: str) -> Path:
        try:
            return Path(hub.hf_hub_download(name, file, **options))
        except OSError as error:  # all errors of the Hub and of the network are
            raise ValueError(
                f"{file} of {PREFIX}{name} cannot be fetched from the Hugging Face Hub: {' '.join(str(error).split())} "
                "A folder on this machine must be one that is there."
            ) from error

    folder = fetch(MANIFEST).parent
    manifest = read_manifest(folder) or {"files": {}}
    for file in only if only is not None else listed(manifest["files"]):
        fetch(file)
    return folder


def listed(files: Iterable[str]) -> list[str]:
    """The names of files in a manifest.

    Raises:
        ValueError: If one is not the name of a file in the same folder.
    """
    names = [str(name) for name in files]
    if bad := [name for name in names if name in ("", ".", "..") or set(name) & set('/\\:*?"<>|[]')]:
        raise ValueError(f"{MANIFEST} must list files beside it; {bad[0]!r} is none. It was changed; export again.")
    return names


def checked_name(name: str) -> str:
    """A name of a repository on the Hub.

    Raises:
        ValueError: If it is not ``owner/name``.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"A network is named by its folder, or by hf://OWNER/NAME on the Hugging Face Hub; got {name!r}, which is "
            "no folder and no such name."
        )
    return name


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub", "Reading from and writing to the Hugging Face Hub") from error
    return huggingface_hub
