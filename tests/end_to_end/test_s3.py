"""The whole graph with source and root on S3, against a real server on loopback that checks every signature."""

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from s3fs import S3FileSystem

from image_curation.storage import read_ranges
from image_curation.vector_files import open_vectors

boto3 = pytest.importorskip("boto3")
pytest.importorskip("moto.server")

BUCKET = "photos"
REGION = "eu-central-1"
RAW, CURATED = f"s3://{BUCKET}/raw", f"s3://{BUCKET}/curated"


@dataclass(frozen=True)
class Store:
    """An S3 server, and the one user who may use it."""

    url: str
    key: str
    secret: str

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
        }

    def client(self, service: str = "s3") -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )

    def objects(self, prefix: str = "") -> dict[str, int]:
        """key -> bytes of all objects below a prefix."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", [])}

    def read(self, key: str) -> bytes:
        content: bytes = self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def etags(self, prefix: str) -> dict[str, tuple[str, str]]:
        """key -> its content's tag and when it was written."""
        answer = self.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return {one["Key"]: (one["ETag"], str(one["LastModified"])) for one in answer["Contents"]}


@pytest.fixture(scope="module")
def store(clean_environment, s3_server) -> Iterator[Store]:
    with s3_server(clean_environment) as url:
        yield a_user(url)


def a_user(url: str) -> Store:
    """Make a bucket and a user who may use S3, then have every request checked."""
    anybody = Store(url, "setup", "setup")
    anybody.client().create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    iam = anybody.client("iam")
    iam.create_user(UserName="curator")
    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName="curator", PolicyName="storage", PolicyDocument=json.dumps(allowed))
    pair = iam.create_access_key(UserName="curator")["AccessKey"]
    plain = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", plain)).close()
    return Store(url, pair["AccessKeyId"], pair["SecretAccessKey"])


@dataclass(frozen=True)
class Curation:
    """What the runs over S3 and on disk left behind."""

    store: Store
    local: Path
    home: Path
    dagster: subprocess.CompletedProcess[str]
    seen_meanwhile: list[dict[str, int]]
    seen_after: dict[str, int]
    before_again: dict[str, tuple[str, str]]
    again: subprocess.CompletedProcess[str]


@contextmanager
def watching(look: Callable[[], dict[str, int]]) -> Iterator[list[dict[str, int]]]:
    """List the bucket over and over while the body runs."""
    seen: list[dict[str, int]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            seen.append(look())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@pytest.fixture(scope="module")
def curation(store, demo, clean_environment, run_command, tmp_path_factory) -> Curation:
    """The graph through Dagster on S3; then `curate` over the same places on a Dask worker; `curate` on disk."""
    for tar in sorted(demo.folder.glob("*.tar")):
        store.client().upload_file(str(tar), BUCKET, f"raw/{tar.name}")
    home, local = tmp_path_factory.mktemp("dagster"), tmp_path_factory.mktemp("local")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    on_s3 = clean_environment | store.environment()
    graph = {"IMAGE_CURATION_SOURCE": RAW, "IMAGE_CURATION_ROOT": CURATED, "IMAGE_CURATION_CLUSTER": "inline"}
    with watching(lambda: store.objects("curated/")) as seen:
        dagster = run_command(on_s3 | graph | {"DAGSTER_HOME": str(home)}, "python", "-m", "assets.run")
    after, before_again = store.objects("curated/"), store.etags("curated/")
    again = run_command(on_s3, "image-curation", "curate", RAW, CURATED, "--cluster", "local", "--workers", "1")
    on_disk = run_command(clean_environment, "image-curation", "curate", demo.folder, local, "--cluster", "inline")
    assert on_disk.returncode == 0, on_disk.stderr
    return Curation(store, local, home, dagster, seen, after, before_again, again)


def test_dagster_curates_from_s3_to_s3(curation, demo):
    assert curation.dagster.returncode == 0, curation.dagster.stderr
    manifest = json.loads(curation.store.read("curated/release/manifest.json"))
    assert manifest["ledger"]["read"] == len(demo.samples)
    assert manifest["samples"] == manifest["ledger"]["kept"] > 150
    folders = {key.split("/")[1] for key in curation.store.objects("curated/")}
    assert {"shard_index", "embeddings", "duplicate_groups", "selection", "release", "report"} <= folders


def test_release_on_s3_has_the_same_bytes_as_one_on_disk(curation):
    folder = curation.local / "release"
    on_disk = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert sum(name.endswith(".tar") for name in on_disk) >= 1
    prefix = "curated/release/"
    on_s3 = {key.removeprefix(prefix): curation.store.read(key) for key in curation.store.objects(prefix)}
    assert hashes(on_s3) == hashes(on_disk)


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def test_curate_goes_on_where_dagster_stopped_and_makes_nothing_again(curation):
    assert curation.again.returncode == 0, curation.again.stderr
    assert f"release  {CURATED}/release (" in curation.again.stdout
    after = curation.store.etags("curated/")
    rewritten = {key for key in after if after[key] != curation.before_again.get(key)}
    assert rewritten <= {"curated/report/report.html", "curated/image-curation.json"}
    assert set(after) == set(curation.before_again)


def test_no_half_written_object_is_ever_listed(curation):
    """Every object that was ever listed is one of those at the end, with all its bytes."""
    final = curation.seen_after
    assert len(curation.seen_meanwhile) > 5
    assert any(0 < len(listing) < len(final) for listing in curation.seen_meanwhile)
    for listing in curation.seen_meanwhile:
        passing = {name for name in listing if "/duplicate_groups/embedded/strips/" in name}  # gone when it is done
        assert {item for item in listing.items() if item[0] not in passing} <= final.items()
    assert curation.store.client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


def test_manifest_is_listed_only_with_all_its_files(curation):
    manifest = json.loads(curation.store.read("curated/release/manifest.json"))
    files = {
        f"curated/release/{shard[kind]['name']}" for shard in manifest["shards"] for kind in ("tar", "parquet", "index")
    }
    listings = [*curation.seen_meanwhile, curation.store.objects("curated/")]
    whole = [listing for listing in listings if "curated/release/manifest.json" in listing]
    assert whole
    assert all(files <= set(listing) for listing in whole)


def test_images_of_a_shard_are_few_requests_to_the_store(curation, demo, monkeypatch):
    for name, value in curation.store.environment().items():
        monkeypatch.setenv(name, value)
    content = (demo.folder / "demo-00000.tar").read_bytes()
    with tarfile.open(demo.folder / "demo-00000.tar") as tar:
        ranges = [(member.offset_data, member.size) for member in tar if member.name.endswith(".jpg")]
    asked, cat_file = [], S3FileSystem._cat_file

    async def counting(store: S3FileSystem, path: str, **options: Any) -> bytes:
        asked.append(path)
        return await cat_file(store, path, **options)

    monkeypatch.setattr(S3FileSystem, "_cat_file", counting)
    S3FileSystem.clear_instance_cache()
    assert read_ranges(f"{RAW}/demo-00000.tar", ranges) == [content[start : start + size] for start, size in ranges]
    assert len(ranges) > 20
    assert 1 <= len(asked) <= 2 + len(content) // (2 << 20)


def test_single_vectors_are_read_from_the_store(curation, monkeypatch):
    for name, value in curation.store.environment().items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    name = "embeddings/embedded/demo-00000.parquet"
    with open_vectors(str(curation.local / name)) as on_disk, open_vectors(f"{CURATED}/{name}") as stored:
        expected = on_disk.all()
        places = np.arange(len(expected))[::-3]
        assert len(places) > 5
        assert np.array_equal(stored.rows(places), expected[places])
        assert np.array_equal(stored.all(), expected)


def test_webdataset_reads_the_release_from_the_store(curation, monkeypatch):
    for name, value in curation.store.environment().items():
        monkeypatch.setenv(name, value)
    manifest = json.loads(curation.store.read("curated/release/manifest.json"))
    program = "import sys, fsspec; sys.stdout.buffer.write(fsspec.open(sys.argv[1]).open().read())"
    pipes = [
        f"pipe:{sys.executable} -c '{program}' {CURATED}/release/{shard['tar']['name']}" for shard in manifest["shards"]
    ]
    samples = list(webdataset.WebDataset(pipes, shardshuffle=False).decode("pil").to_tuple("__key__", "json"))
    assert len(samples) == manifest["samples"] == len({key for key, _ in samples})
    assert all(metadata["curation"]["sha256"] for _, metadata in samples)


def test_secret_is_in_no_artifact_log_or_output(curation):
    secret = curation.store.secret.encode()
    said = [curation.dagster.stdout, curation.dagster.stderr, curation.again.stdout, curation.again.stderr]
    logs = [path for path in curation.home.rglob("*") if path.is_file()]
    objects = {key: curation.store.read(key) for key in curation.store.objects("curated/")}
    assert len(secret) == 40
    assert any(path.suffix == ".db" for path in logs)
    assert len(objects) > 30
    assert [text for text in said if secret.decode() in text] == []
    assert [path.name for path in logs if secret in path.read_bytes()] == []
    assert [key for key, content in objects.items() if secret in content] == []
    assert [key for key, content in objects.items() if curation.store.key.encode() in content] == []


def test_looking_at_a_curation_on_s3(curation, clean_environment, run_command):
    environment = clean_environment | curation.store.environment()
    why = run_command(environment, "image-curation", "why", "no-such-key", "--root", CURATED)
    assert f"no sample 'no-such-key' below {CURATED}" in why.stderr
    inspect = run_command(environment, "image-curation", "inspect", f"{RAW}/demo-00001.tar", "--limit", "1")
    assert inspect.returncode == 0, inspect.stderr
    assert re.search(r"^\d+ samples: \d+ ok", inspect.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "root", "changed", "said"),
    [
        (RAW, CURATED, {"AWS_SECRET_ACCESS_KEY": "x" * 40}, f"cannot list {RAW}: PermissionError: "),
        (RAW, CURATED, {"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, f"cannot list {RAW}: PermissionError: "),
        (RAW, CURATED, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}, f"cannot list {RAW}: "),
        ("s3://no-such-bucket/raw", CURATED, {}, "cannot list s3://no-such-bucket/raw: FileNotFoundError: "),
        (RAW, "s3://no-such-bucket/curated", {}, "cannot write s3://no-such-bucket/curated/shard_index/demo-0000"),
    ],
    ids=["wrong secret", "unknown user", "no server", "no bucket to read", "no bucket to write"],
)
def test_storage_that_cannot_be_used_is_a_sentence_with_the_next_step(
    curation, clean_environment, run_command, source, root, changed, said
):
    environment = clean_environment | curation.store.environment() | changed
    ran = run_command(environment, "image-curation", "curate", source, root, "--cluster", "inline")
    assert ran.returncode == 1
    assert f"error StorageError: {said}" in ran.stderr
    assert "Check that the place exists and that the credentials in the environment allow it." in ran.stderr
    assert "Traceback" not in ran.stderr
    assert environment["AWS_SECRET_ACCESS_KEY"] not in ran.stdout + ran.stderr


def test_prefix_without_tars_says_so(curation, clean_environment, run_command):
    environment = clean_environment | curation.store.environment()
    ran = run_command(environment, "image-curation", "curate", f"s3://{BUCKET}/rawww", CURATED)
    assert ran.returncode == 1
    assert f"error ConfigError: there is no .tar file below s3://{BUCKET}/rawww (0 other files)." in ran.stderr
