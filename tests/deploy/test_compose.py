"""The compose file: nothing is root, writes to its image or listens to other machines, and secrets come from `.env`."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"


def test_compose_services_are_read_only_without_capabilities_and_not_root(compose):
    assert set(compose["services"]) == {"postgres", "s3", "code", "webserver", "daemon"}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service["user"].startswith("0"), name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert "/tmp" in service["tmpfs"], name


def test_compose_opens_ports_on_this_machine_only_and_the_database_to_nobody(compose):
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert ports.pop("webserver") == ["127.0.0.1:3000:3000"]
    assert ports.pop("s3") == ["127.0.0.1:7070:7070"]
    assert set(map(str, ports.values())) == {"[]"}
    assert compose["networks"]["inside"] == {"internal": True}
    assert {name for name, one in compose["services"].items() if "outside" in one["networks"]} == {"webserver", "s3"}


def test_compose_needs_every_secret_and_the_example_names_all_variables(compose):
    text = (DEPLOY / "compose" / "compose.yaml").read_text("utf-8")
    asked = dict(re.findall(r"\$\{(\w+)(\W[^}]*)\}", text))
    example = dict(re.findall(r"^(\w+)=(.*)$", (DEPLOY / "compose" / "env.example").read_text("utf-8"), flags=re.M))
    assert set(asked) == set(example)
    secrets = {"DAGSTER_PG_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
    assert {name for name, value in example.items() if not value} == secrets
    assert {asked[name] for name in secrets} == {":?"}
    assert re.search(r"^\.env$", (REPOSITORY / ".gitignore").read_text(), flags=re.M)
