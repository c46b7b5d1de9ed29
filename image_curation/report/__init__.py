"""What curation did, as one HTML page and as pictures for the metadata of each step."""
