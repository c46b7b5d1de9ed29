"""The graph: one file an asset, in the order of the data's way; `definitions.py` puts it together for Dagster."""

import warnings

from dagster import BetaWarning

# Dagster notes at every use that a feature may still change; what is used here is pinned and tested.
warnings.filterwarnings("ignore", category=BetaWarning)
