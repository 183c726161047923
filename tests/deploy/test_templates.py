"""deploy/: templates fit their schemas, and start the command that the documentation names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
SBATCH = DEPLOY / "slurm" / "torchrun.sbatch"
RAY_SBATCH = DEPLOY / "slurm" / "ray.sbatch"


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.name)
def test_manifests_fit_the_schema_of_kubernetes(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="install the extra 'test'")
    yaml = pytest.importorskip("yaml")
    for document in yaml.safe_load_all(path.read_text()):
        if document["apiVersion"].startswith("ray.io/"):  # its own schema comes with its operator
            checked = [{**POD, **group["template"]} for group in groups_of(document)]
        else:
            checked = [document]
        for known in checked:
            validate.validate(known, "1.37", strict=True)
            with pytest.raises(validate.ValidationError):
                validate.validate({**known, "kindd": "Job"}, "1.37", strict=True)


POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}}


def groups_of(ray_job: dict) -> list[dict]:
    """The groups of pods of a RayJob: its head, and its workers."""
    cluster = ray_job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def submitted(
    folder: Path, script: Path = SBATCH, **settings: str
) -> subprocess.CompletedProcess[str]:
    """The batch script's run with a `srun` that prints what it is asked to start."""
    for name, text in {"srun": 'echo "$@"', "scontrol": "echo node1; echo node2"}.items():
        program = folder / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", str(script), "faces/", "--epsilon", "10", "--out", "a folder"]
    return subprocess.run(command, env={**path, **job, **settings}, capture_output=True, text=True)


def test_the_batch_script_starts_one_run_on_all_machines(tmp_path: Path) -> None:
    done = submitted(tmp_path, SFUMATO_STATE="/shared/state", SLURM_GPUS_ON_NODE="4")
    assert done.returncode == 0, done.stderr
    expected = (
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint node1:29500 "
        "--rdzv-id 7 -m sfumato synthesize faces/ --epsilon 10 --out a folder"
    )
    assert done.stdout.split() == expected.split()


def test_without_a_state_folder_nothing_starts(tmp_path: Path) -> None:
    done = submitted(tmp_path)
    assert done.returncode != 0 and "SFUMATO_STATE" in done.stderr and not done.stdout


def test_the_batch_script_of_ray_starts_a_head_workers_and_one_run(tmp_path: Path) -> None:
    done = submitted(
        tmp_path,
        RAY_SBATCH,
        SFUMATO_STATE="/shared/state",
        SFUMATO_SCRATCH="/scratch/me",
        SFUMATO_HEAD_SECONDS="0",
        SLURM_CPUS_PER_TASK="8",
    )
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines(), key=len)
    assert len(lines) == 3
    expected = (
        "--nodes 1 --ntasks 1 --nodelist node1 --overlap sfumato synthesize faces/ --epsilon 10 "
        "--out a folder --engine ray://node1:6379"
    )
    assert expected in lines
    head = "ray start --head --block --port 6379 --num-cpus 8 --include-dashboard false"
    workers = "--exclude node1 --overlap ray start --block --address node1:6379 --num-cpus 8"
    assert any(head in line and "--temp-dir /scratch/me" in line for line in lines)
    assert any(workers in line and "--nodes 1 --ntasks 1" in line for line in lines)


@pytest.mark.parametrize("left_out", ["SFUMATO_STATE", "SFUMATO_SCRATCH"])
def test_without_private_folders_ray_is_not_started(tmp_path: Path, left_out: str) -> None:
    settings = {"SFUMATO_STATE": "/shared", "SFUMATO_SCRATCH": "/mine"}
    del settings[left_out]
    done = submitted(tmp_path, RAY_SBATCH, **settings)
    assert done.returncode != 0 and left_out in done.stderr and not done.stdout
