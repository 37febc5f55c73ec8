"""NVML's figures in words; without a GPU, a sentence. The library is a stand-in here: a GPU is tested where one is."""

import pynvml
import pytest

from torchcourse.lessons.troubleshooting import nvml as module
from torchcourse.lessons.troubleshooting.nvml import gpu_status


class Memory:
    used, total = 3 * 2**30, 24 * 2**30


class Rates:
    gpu = 87


class Process:
    pid, usedGpuMemory = 4242, 2 * 2**30


@pytest.fixture
def driver(monkeypatch):
    """An NVML with one card."""
    answers = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "handle",
        "nvmlDeviceGetName": "Some Card",
        "nvmlDeviceGetMemoryInfo": Memory,
        "nvmlDeviceGetUtilizationRates": Rates,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetPowerUsage": 250_000,
        "nvmlDeviceGetEnforcedPowerLimit": 350_000,
        "nvmlDeviceGetComputeRunningProcesses": [Process],
    }

    def set_answer(name, answer):
        def function(*_):
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(pynvml, name, function)

    for name, answer in answers.items():
        set_answer(name, answer)
    return set_answer


@pytest.mark.slow
def test_all_figures_of_a_card(driver):
    assert repr(gpu_status()) == (
        "GPU 0, Some Card: memory 3.0 GiB of 24.0 GiB, busy 87%, 61 °C, 250 of 350 W; processes: 4242 (2.0 GiB)"
    )


def test_what_a_card_does_not_tell_is_left_out(driver):
    for name in ("UtilizationRates", "PowerUsage", "Temperature", "ComputeRunningProcesses"):
        driver(f"nvmlDeviceGet{name}", pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED))
    driver("nvmlDeviceGetName", b"Old Card")
    assert repr(gpu_status()) == "GPU 0, Old Card: memory 3.0 GiB of 24.0 GiB; processes: none told"


@pytest.mark.parametrize(
    ("name", "answer", "sentence"),
    [
        ("nvmlInit", pynvml.NVMLError_LibraryNotFound(), "No NVIDIA driver is installed here"),
        ("nvmlInit", pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED), "does not answer"),
        ("nvmlDeviceGetCount", 0, "finds no GPU"),
    ],
)
def test_without_a_gpu_there_is_a_sentence(driver, name, answer, sentence):
    driver(name, answer)
    status = gpu_status()
    assert status.gpus == ()
    assert sentence in repr(status)
    assert "\n" not in repr(status)
    assert sentence in status._repr_html_()


@pytest.mark.gpu
def test_the_gpus_of_this_machine():
    import torch

    torch.zeros(2**20, device="cuda")
    status = module.gpu_status()
    assert len(status.gpus) >= torch.cuda.device_count() > 0
    assert all(0 < gpu.memory_used <= gpu.memory_total for gpu in status.gpus)
