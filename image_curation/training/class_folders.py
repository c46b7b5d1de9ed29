"""A folder with one folder a class -> its image files and the class of each."""

from pathlib import Path

from image_curation.errors import ConfigError
from image_curation.shards.grouping import READ_IMAGE_FIELDS


def list_class_folders(folder: Path) -> tuple[list[Path], list[str]]:
    """All image files, by class and path, at any depth below the class's folder, and the names of their classes.

    What has no image's extension is no image; hidden files and folders do not count.

    Raises:
        ConfigError: there is no image in any folder.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [(path, one.name) for one in classes for path in sorted(one.rglob("*")) if _is_image(path, folder)]
    if not found:
        raise ConfigError(
            f"{folder} is no release (it has no manifest), holds no tar, and no folder in it holds an image: give a "
            "release, a folder of tars, or a folder with one folder a class."
        )
    return [path for path, _ in found], [name for _, name in found]


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.suffix[1:].lower() in READ_IMAGE_FIELDS and path.is_file()
