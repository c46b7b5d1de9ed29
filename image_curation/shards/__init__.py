"""Tar shards in storage: which there are, what is in them, and one row for every sample."""
