"""Which GPUs a runner may use, and which of them a slot sees. A folder stands for the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from dragonfly_executor.runner.gpus import CUDA, HIP, KFD_NODES, ROCR, count_gpus, find_gpus, share_of, visible

UUIDS = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-GPU-8932f937/1/0"


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("", []),
        ("0", ["0"]),
        (f"3, 5 ,{UUIDS},{MIG}", ["3", "5", UUIDS, MIG]),
        ("0,2,-1,1", ["0", "2"]),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,,2", ["1"]),
        ("all", []),
        ("0x1", []),
        ("1,two,3", ["1"]),
    ],
)
def test_names_are_read_as_cuda_reads_them(text: str, devices: list[str]) -> None:
    assert visible(text) == devices


def with_nvidia(root: Path, *names: str) -> str:
    (root / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia-modeset", "null", *names):
        (root / "dev" / name).touch()
    return str(root)


def with_amd(root: Path, *numbers: str) -> str:
    (root / "dev").mkdir()
    (root / "dev" / "kfd").touch()
    for place, number in enumerate(numbers):
        node = root / KFD_NODES / str(place)
        node.mkdir(parents=True)
        (node / "gpu_id").write_text(f"{number}\n")
    return str(root)


def test_a_machine_without_gpus_has_none(tmp_path: Path) -> None:
    assert find_gpus({}, str(tmp_path)) == {}
    assert count_gpus({}) == 0


def test_nvidia_devices_are_counted(tmp_path: Path) -> None:
    gpus = find_gpus({}, with_nvidia(tmp_path, "nvidia0", "nvidia3", "nvidia12"))
    assert gpus == {CUDA: ["0", "1", "2"]}
    assert count_gpus(gpus) == 3


def test_devices_that_this_process_may_not_use_do_not_count(tmp_path: Path) -> None:
    """A container sees the machine's GPUs in /proc, and its own in /dev."""
    root = with_nvidia(tmp_path)
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert find_gpus({}, root) == {}


def test_amd_devices_are_counted_without_cpus_and_without_those_that_cannot_be_read(tmp_path: Path) -> None:
    root = with_amd(tmp_path, "0", "51989", "42", "")
    (tmp_path / KFD_NODES / "9").mkdir()
    assert find_gpus({}, root) == {ROCR: ["0", "1"]}


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({CUDA: "3,5"}, {CUDA: ["3", "5"]}),
        ({CUDA: ""}, {CUDA: []}),
        ({HIP: "1"}, {HIP: ["1"]}),
        ({ROCR: f"0,{UUIDS}"}, {ROCR: ["0", UUIDS]}),
        ({HIP: "0,1", ROCR: "4,5"}, {HIP: ["0", "1"]}),
        ({HIP: "0,1", CUDA: "0,1"}, {CUDA: ["0", "1"], HIP: ["0", "1"]}),
    ],
)
def test_variables_name_the_gpus(environment: dict[str, str], gpus: dict[str, list[str]], tmp_path: Path) -> None:
    assert find_gpus(environment, with_nvidia(tmp_path, "nvidia0")) == gpus


@pytest.mark.parametrize(
    ("count", "slots", "shares"),
    [
        (1, 3, ["0", "0", "0"]),
        (2, 5, ["0", "1", "0", "1", "0"]),
        (3, 3, ["0", "1", "2"]),
        (4, 2, ["0,1", "2,3"]),
        (5, 2, ["0,1", "2,3,4"]),
        (8, 3, ["0,1", "2,3,4", "5,6,7"]),
    ],
)
def test_a_slot_has_gpus_of_its_own_if_there_are_enough(count: int, slots: int, shares: list[str]) -> None:
    gpus = {CUDA: [str(device) for device in range(count)]}
    assert [share_of(gpus, number, slots) for number in range(slots)] == [{CUDA: share} for share in shares]
    assert share_of(gpus, slots, slots) == {CUDA: shares[0]}, "an extra slot has those of the first"


def test_nothing_is_set_for_one_slot_or_without_gpus() -> None:
    assert share_of({CUDA: ["0", "1"]}, 0, 1) == {}
    assert share_of({CUDA: []}, 0, 4) == {}
    assert share_of({}, 0, 4) == {}
