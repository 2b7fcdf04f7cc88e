"""Uploads a model's folder to the Hub; `pretrained` writes the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError

from jaxbert.interop.write import weights_in


@dataclass(frozen=True)
class Upload:
    """The options of an upload; None is the Hub's own default."""

    token: str | bool | None = None
    private: bool | None = None
    commit_message: str | None = None
    commit_description: str | None = None
    revision: str | None = None
    create_pr: bool = False
    tags: Sequence[str] | None = None
    """Tags to add to the model card, which is made if there is none."""


def upload(folder: Path, repo_id: str, how: Upload) -> str:
    """Upload configuration and weights to a repository, which is made if needed; return the address of the commit."""
    api = HfApi(token=how.token)
    repo_id = api.create_repo(repo_id, private=how.private, exist_ok=True).repo_id
    if how.revision is not None and not how.create_pr and not how.revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=how.revision, exist_ok=True)
    files = ["config.json", *sorted(weights_in(folder))]
    if how.tags is not None:
        _tag(repo_id, how).save(folder / "README.md")
        files.append("README.md")
    return api.upload_folder(
        folder_path=folder,
        repo_id=repo_id,
        allow_patterns=files,
        commit_message=how.commit_message or "Upload model",
        commit_description=how.commit_description,
        revision=how.revision,
        create_pr=how.create_pr,
    )


def _tag(repo_id: str, how: Upload) -> ModelCard:
    try:
        card = ModelCard.load(repo_id, token=how.token if isinstance(how.token, str) else None)
    except EntryNotFoundError:
        card = ModelCard(f"---\n{ModelCardData(library_name='transformers').to_yaml()}\n---\n")
    tags = card.data.tags or []
    card.data.tags = [*tags, *(tag for tag in how.tags or () if tag not in tags)]
    return card
