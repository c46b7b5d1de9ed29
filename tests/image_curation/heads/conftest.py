"""Fixtures of the head tests: the folder with the original files, and the two vector spaces that have heads."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def heads_data(shared_data: Path) -> Path:
    """`aesthetic/` and `nsfw/`: original weights, golden inputs and outputs."""
    return shared_data / "heads"
