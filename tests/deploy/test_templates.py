"""deploy/: templates fit their schemas, and start the command that the documentation names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
SBATCH = DEPLOY / "slurm" / "torchrun.sbatch"


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.name)
def test_manifests_fit_the_schema_of_kubernetes(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="install the extra 'test'")
    yaml = pytest.importorskip("yaml")
    for document in yaml.safe_load_all(path.read_text()):
        if document["apiVersion"].startswith("ray.io/"):
            continue  # a custom resource: its schema comes with its operator
        validate.validate(document, "1.37", strict=True)
        wrong = {**document, "kindd": "Job"}
        with pytest.raises(validate.ValidationError):
            validate.validate(wrong, "1.37", strict=True)


def submitted(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """The batch script's run with a `srun` that prints what it is asked to start."""
    for name, text in {"srun": 'echo "$@"', "scontrol": "echo node1; echo node2"}.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", str(SBATCH), "faces/", "--epsilon", "10", "--out", "a folder"]
    return subprocess.run(command, env={**path, **job, **settings}, capture_output=True, text=True)


def test_the_batch_script_starts_one_run_on_all_machines(tmp_path: Path) -> None:
    done = submitted(tmp_path, SFUMATO_STATE="/shared/state", SLURM_GPUS_ON_NODE="4")
    assert done.returncode == 0, done.stderr
    expected = (
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint node1:29500 "
        "--rdzv-id 7 -m sfumato.cli synthesize faces/ --epsilon 10 --out a folder"
    )
    assert done.stdout.split() == expected.split()


def test_without_a_state_folder_nothing_starts(tmp_path: Path) -> None:
    done = submitted(tmp_path)
    assert done.returncode != 0 and "SFUMATO_STATE" in done.stderr and not done.stdout
