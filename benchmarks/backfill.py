"""A backfill of many shards as the UI launches it, under Dagster's own daemon; three fail, and are retried alone.

    python -m benchmarks.backfill SHARDS [--per-run 500]

SHARDS holds a thousand small tars (`benchmarks/make_shards.py --images 4000 --per-shard 4`). Of three shards in the
first run the embeddings cannot be written. What is recorded, and by which run, is read from Dagster's log.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import dagster as dg
import yaml

from assets.versions import SAMPLES
from tests.assets.daemon.conftest import INSTANCE, OURS, Site, impatient
from tests.assets.daemon.test_backfill_daemon import REEXECUTE, backfill, ended, register

PATIENCE_S = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="folder of tars")
    parser.add_argument("--per-run", type=int, default=500)
    options = parser.parse_args()
    shards = sorted(tar.stem for tar in options.shards.glob("*.tar"))
    bad = [shards[n] for n in (3, options.per_run // 2, options.per_run - 1)]
    with tempfile.TemporaryDirectory() as folder:
        site = opened(Path(folder), options.shards, options.per_run)
        try:
            measure(site, shards, bad, options.per_run)
        finally:
            site.kill()


def opened(folder: Path, source: Path, per_run: int) -> Site:
    """`dagster dev` with this repository's dagster.yaml, looking every second."""
    home = folder / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(impatient(yaml.safe_load(INSTANCE.read_text()))))
    ours = {"SOURCE": str(source), "ROOT": str(folder / "curated"), "CLUSTER": "inline", "SHARDS_PER_RUN": str(per_run)}
    os.environ["DAGSTER_HOME"] = str(home)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment |= {f"IMAGE_CURATION_{name}": value for name, value in ours.items()} | {"DAGSTER_HOME": str(home)}
    site = Site(home, ours["SOURCE"], ours["ROOT"], environment)
    site.start()
    return site


def measure(site: Site, shards: list[str], bad: list[str], per_run: int) -> None:
    in_the_way = [Path(site.root) / "embeddings/embedded" / f"{shard}.parquet" for shard in bad]
    for folder in in_the_way:
        folder.mkdir(parents=True)
    register(site, shards)
    runs = -(-len(shards) // per_run)
    begun = time.monotonic()
    backfill(site, SAMPLES, shards)
    print(f"{len(shards):,} shards: the first run is there after {time.monotonic() - begun:.1f} s", flush=True)
    ended(site, runs, PATIENCE_S)
    print(f"all {runs} runs have ended after {time.monotonic() - begun:.1f} s")
    tell(site, shards)
    for folder in in_the_way:
        folder.rmdir()
    (failed,) = [run for run in site.runs() if run.status == dg.DagsterRunStatus.FAILURE]
    begun = time.monotonic()
    site.ask(REEXECUTE, params={"parentRunId": failed.run_id, "strategy": "FROM_FAILURE"})
    ended(site, runs + 1, PATIENCE_S)
    print(f"re-executed from failure in {time.monotonic() - begun:.1f} s")
    tell(site, shards)
    recorded, again = site.recorded("embeddings"), site.runs()[-1].run_id
    retried = sorted(shard for shard, by in recorded.items() if again in by)
    once = sum(len(by) == 1 for by in recorded.values())
    print(f"embedded by the re-execution: {', '.join(retried)}; bad: {', '.join(sorted(bad))}")
    print(f"embeddings recorded just once: {once} of {len(shards)}")
    assert retried == sorted(bad)
    assert once == len(shards)


def tell(site: Site, shards: list[str]) -> None:
    """Each run: its state, its seconds, and how many shards of each asset it recorded."""
    by_asset = {asset: site.recorded(asset) for asset in SAMPLES}
    with site.instance() as instance:
        for record in reversed(instance.get_run_records()):
            run = record.dagster_run
            counts = {asset: sum(run.run_id in by for by in found.values()) for asset, found in by_asset.items()}
            seconds = (record.end_time or 0) - (record.start_time or 0)
            print(f"  {run.status.value:<8}{seconds:>7.1f} s  {counts}")


if __name__ == "__main__":
    main()
