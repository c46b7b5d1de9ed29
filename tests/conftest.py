"""Fixtures that all tests share: where the real test data lies."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos, hostile images, heads and golden values; the test is skipped where it is absent."""
    folder = Path(os.environ.get("IMAGE_CURATION_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set IMAGE_CURATION_TEST_DATA to the folder with photos/ and heads/")
    return folder
