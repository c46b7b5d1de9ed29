"""`image-curation policy`: a policy file to start from."""

import typer


def policy() -> None:
    """Print the default policy as commented YAML: `image-curation policy > policy.yaml`."""
    from image_curation.policy import policy_yaml

    typer.echo(policy_yaml(), nl=False)
