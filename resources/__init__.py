"""The doors to the outside, as Dagster resources: which data and encoder (`curation`), what computes (`cluster`)."""
