"""A dataset whose look-alike parts are joined, so that no part is on both sides of a split."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from training.data.dataset import Dataset
from training.near_duplicates import joined_parts, near_duplicates


def dataset_with_joined_parts(dataset: Dataset, console: Console) -> Dataset:
    """Give parts whose photographs look alike the same part id, as `procunit train` suggests."""
    joined = joined_parts(dataset, near_duplicates(dataset, console))
    return replace(dataset, photos=tuple(replace(photo, part_id=joined[photo.part_id]) for photo in dataset.photos))
