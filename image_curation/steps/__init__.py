"""The steps of a curation, one a file: each makes one artifact from those before it, or finds it made and reuses it.

Dagster's assets and the command line call the same steps. A step takes a project and names, and returns an `Outcome`.
"""
