"""Input for a first try: tar shards made of real photographs that are on the machine already."""
