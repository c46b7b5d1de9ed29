"""The graph: one file an asset, in the order of the data's way; `definitions.py` puts it together for Dagster."""
