"""Read examples from a dataset on the Hugging Face Hub, or from the copy that was loaded before.

Finds the dataset, its config and its split through `datasets.load_dataset`, and turns whatever that raises into one
line. The columns' contents are `table`'s part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxbert.data.class_names import class_names
from jaxbert.data.table import PART_ROWS, Table, Wanted, build_table, quoted, shorten
from jaxbert.errors import UserError


def open_hub(spec: str, default_split: str) -> Any:
    """Return the split that `hf:ORG/NAME[/CONFIG][:SPLIT]` names, as a dataset whose rows are on disk.

    A split may be sliced as the datasets library does it: `train[:10%]`.

    Raises:
      UserError: if the dataset, the config or the split is not there or cannot be reached.
    """
    name, config, split = parse_spec(spec)
    return _load_split(name, config, split or default_split, spec)


def read_hub(dataset: Any, spec: str, wanted: Wanted, limit: int | None = None) -> Iterator[Table]:
    """Yield the first `limit` examples of a split part by part.

    Raises:
      UserError: if a column is not there.
    """
    if any("." in name and name not in dataset.column_names for name in wanted.needed().values()):
        dataset = dataset.flatten()  # a column inside of another is named a.b
    chosen = wanted.choose(dataset.column_names, spec)
    names = class_names(dataset.features, wanted.label)
    picked, positions = dataset.select_columns(chosen), range(len(dataset))[:limit]
    for start in range(0, len(positions), PART_ROWS):
        part = positions[start : start + PART_ROWS]
        rows = range(part.start + 1, part.stop + 1)
        yield build_table(picked[part.start : part.stop], wanted, source=spec, rows=rows, label_names=names)


def hub_identity(dataset: Any) -> list[str]:
    """Return the datasets library's fingerprint, which names data files, config and split."""
    return [dataset._fingerprint]


def parse_spec(spec: str) -> tuple[str, str | None, str | None]:
    """Split a spec into the dataset's name, its config and its split."""
    address, _, split = spec.removeprefix("hf:").partition(":")
    parts = address.split("/")
    if len(parts) > 3 or not all(parts):
        raise UserError(f"{spec}: expected hf:ORG/NAME[/CONFIG][:SPLIT], for instance hf:nyu-mll/glue/sst2:train")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split or None


def _load_split(name: str, config: str | None, split: str, spec: str) -> Any:
    sliced = "[" in split or "+" in split
    try:
        loaded = _load(name, config, split if sliced else None)
    # The libraries and their HTTP client raise many types, none of which says anything about jaxbert.
    except Exception as error:
        raise UserError(f"{spec}: {_explain(error)}") from error
    if sliced:
        return loaded
    if split not in loaded:
        raise UserError(
            f"{spec}: no split {split!r}; there are {quoted(loaded)}: name one as {name_split(spec, 'SPLIT')}"
        )
    return loaded[split]


def _load(name: str, config: str | None, split: str | None) -> Any:
    """Load from the Hub; unreachable, from what `datasets` or else `hf download` left in their caches."""
    import datasets
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return datasets.load_dataset(name, config, split=split)
    except ConnectionError as error:
        try:
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
            return datasets.load_dataset(folder, config, split=split)
        # The second: a copy that was cut off, with a card and no data files.
        except (LocalEntryNotFoundError, FileNotFoundError):
            raise error from None


def name_split(spec: str, split: str) -> str:
    """Return the spec with another split."""
    prefix, _, rest = spec.partition(":")
    return f"{prefix}:{rest.partition(':')[0]}:{split}"


def _explain(error: Exception) -> str:
    reason = shorten(" ".join(str(error).partition("Example of usage")[0].split()), 300)
    if isinstance(error, ConnectionError) or "offline" in reason.lower():
        return f"the Hub cannot be reached and no local copy was found ({reason})"
    if "Config name is missing" in reason or "BuilderConfig" in reason:
        return f"{reason}: name the config as hf:ORG/NAME/CONFIG"
    if isinstance(error, FileNotFoundError):
        return f"{reason} Check the name; a private dataset needs `hf auth login`"
    return f"cannot be loaded: {reason}"
