"""The launch files of docs/clusters: the programs that they call accept their arguments."""

import re
import shlex
import subprocess
from pathlib import Path

import photochrom
import pytest
import torch.distributed.run as torchrun
from accelerate.commands.config.config_args import load_config_from_file
from photochrom.engine.commands.train import parse

FOLDER = Path(photochrom.__file__).parent / "docs" / "clusters"


@pytest.mark.parametrize("name", ["one-vm.sh", "three-vms.sh", "slurm.sbatch"])
def test_scripts_launch_a_run(name: str) -> None:
    script = FOLDER / name
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    text = script.read_text().replace("\\\n", " ")
    (line,) = re.findall(r"torchrun (.*)", text)
    words = shlex.split(re.sub(r"\|\| status=\$\?", "", line.replace('"$@"', "")))
    words = [re.sub(r"\$\{?SLURM_NNODES\}?", "3", word) for word in words]
    arguments = torchrun.parse_args([re.sub(r"^\$number$", "0", word) for word in words])
    assert arguments.nproc_per_node == "4"
    assert arguments.nnodes in ("3", "1:1")
    assert arguments.training_script == "photochrom"
    verb, *settings = arguments.training_script_args
    assert verb == "train"
    config = parse(settings)
    assert config.train.batch_size % (12 if arguments.nnodes == "3" else 4) == 0


def test_accelerate_reads_its_configuration() -> None:
    config = load_config_from_file(str(FOLDER / "three-vms.yaml"))
    assert (config.num_processes, config.num_machines, config.distributed_type.value) == (12, 3, "MULTI_GPU")
