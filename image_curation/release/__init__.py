"""Kept samples -> a release: even WebDataset tars, Parquet and a DALI index beside each, and a manifest."""
