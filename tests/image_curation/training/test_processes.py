"""What processes under torchrun tell each other."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

SCRIPT = """
import os
from image_curation.errors import ConfigError
from image_curation.training.processes import joined_processes

def make():
    return f"made by {os.environ['RANK']}"

def fail():
    raise ConfigError(f"refused by {os.environ['RANK']}")

with joined_processes("cpu") as processes:
    said = [processes.from_first(make)]
    try:
        processes.from_first(fail)
    except ConfigError as error:
        said.append(str(error))
    if processes.first:
        print(processes.gathered(said), flush=True)
    else:
        processes.gathered(said)
"""


def said_by(processes: int, folder: Path) -> str:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", script]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=120).stdout


def test_what_the_first_process_makes_and_refuses_reaches_all(tmp_path):
    assert said_by(2, tmp_path).strip() == str([["made by 0", "refused by 0"]] * 2)


def test_one_process_makes_and_refuses_by_itself(tmp_path):
    assert said_by(1, tmp_path).strip() == str([["made by 0", "refused by 0"]])
