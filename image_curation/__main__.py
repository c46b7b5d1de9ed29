"""`python -m image_curation` is `image-curation`."""

from image_curation.cli import main

main()
