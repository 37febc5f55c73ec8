"""The keys of lesson 05's bank, computed again or tried out: what a question says happens is what happens."""

import copy
import faulthandler
import gc
import math
import os
import re
import signal
import subprocess
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from keys import Keys
from torchcourse.lessons.troubleshooting.offload import step_with
from torchcourse.lessons.troubleshooting.tracking import MemoryTracker

LESSON = "05_troubleshooting"
keys = Keys(LESSON)
asked, key, mistakes = keys.asked, keys.key, keys.mistakes


def stepped(optimizer_class) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(100, 100, bias=False)
    optimizer = optimizer_class(model.parameters(), 0.01)
    assert not optimizer.state  # "before it optimizer.state is empty"
    model(torch.ones(1, 100)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(
    ("name", "optimizer_class"), [("bytes-of-adamw", torch.optim.AdamW), ("bytes-of-plain-sgd", torch.optim.SGD)]
)
def test_bytes_of_a_parameter(name, optimizer_class):
    model, optimizer = stepped(optimizer_class)
    held = [model.weight, model.weight.grad]
    held += [value for value in optimizer.state[model.weight].values() if torch.is_tensor(value) and value.numel() > 1]
    each = sum(tensor.nbytes for tensor in held) / model.weight.numel()
    assert key(name) == each * 50
    optimizer.zero_grad()
    assert model.weight.grad is None
    if optimizer_class is torch.optim.AdamW:
        assert key("between-two-steps") == (each - 4) * 25
    assert key("second-step-runs-out") == "B"


def test_activations_that_autograd_keeps():
    code = re.search(r"```\n(.*?)```", asked("activations-of-two-layers").text.en, re.DOTALL)[1]
    x, kept = torch.zeros(512, 1000), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    names: dict[str, Any] = {"nn": nn, "x": x}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        exec(code, names)
    weights = {parameter.untyped_storage().data_ptr() for parameter in names["model"].parameters()}
    measured = sum(size for storage, size in kept.items() if storage not in weights)
    assert measured / 1e6 == pytest.approx(key("activations-of-two-layers"))
    assert 512 * (1000 + 2000 + 2000) * 4 / 1e6 in mistakes("activations-of-two-layers")


def gib(name: str) -> dict[str, float]:
    text = " ".join(asked(name).text.en.split())
    parts = {
        "capacity": r"total capacity of ([\d.]+)",
        "free": r"of which ([\d.]+) GiB is free",
        "process": r"this process has ([\d.]+)",
        "tensors": r"memory ([\d.]+) GiB is allocated",
        "cache": r"and ([\d.]+) GiB is reserved",
    }
    return {part: float(re.search(pattern, text)[1]) for part, pattern in parts.items()}


def test_the_parts_of_an_error_add_up():
    error = gib("used-by-others")
    assert error["capacity"] - error["free"] - error["process"] == pytest.approx(key("used-by-others"))
    wrong = {error["capacity"] - error["process"], error["capacity"] - error["free"] - error["tensors"]}
    wrong |= {round(error["process"] - error["tensors"] - error["cache"], 2)}
    assert {round(value, 2) for value in wrong} == set(mistakes("used-by-others"))
    error = gib("reserved-but-unallocated")
    assert error["free"] + error["process"] == error["capacity"]  # nothing is left for others
    assert error["tensors"] + 2 < error["capacity"]
    assert key("reserved-but-unallocated") == "C"
    assert pytest.approx(600, rel=0.03) == 24 * 1024 / 40


def test_savings_agree_with_the_keys():
    assert key("accumulate-to-fit") == 6 + 10 / 4
    assert key("checkpoint-every-block") == 16 * 10 + 90
    assert key("step-at-which-it-ends") == 10 + (8000 - 1240) / ((1640 - 1240) / 100)
    assert set(mistakes("step-at-which-it-ends")) == {8000 / 4, (8000 - 1640) / 4}


def test_backward_adds_micro_batches():
    model, x = nn.Linear(5, 1), torch.randn(64, 5)
    model(x).mean().backward()
    whole, model.weight.grad = model.weight.grad, None
    for part in x.chunk(8):
        model(part).mean().backward()
    torch.testing.assert_close(model.weight.grad, key("accumulated-without-dividing") * whole)


def test_autocast_halves_outputs_alone():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        out = model(torch.ones(2, 4))
    out.sum().backward()
    optimizer.step()
    moments = optimizer.state[model.weight]["exp_avg"]
    assert [tensor.itemsize for tensor in (model.weight, moments, out, model.weight.grad)] == [4, 4, 2, 4]
    assert key("halved-by-autocast") == "C"


def test_eval_records_a_graph_and_no_grad_does_not():
    model = nn.Linear(2, 2).eval()
    assert model(torch.ones(1, 2)).grad_fn is not None
    with torch.no_grad():
        assert model(torch.ones(1, 2)).grad_fn is None
    assert key("validation-with-a-larger-batch") == "B"


def growth_a_batch(line: str, train: bool) -> tuple[float, dict]:
    """Return by how many bytes per batch memory grows when `line` stands at the end of each, and the names it uses."""
    model = nn.Sequential(nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 2))
    names: dict[str, Any] = {"total": 0.0, "history": [], "outputs": [], "best": math.inf, "smooth": 0.0}
    after = []
    with MemoryTracker() as tracker:
        for _ in range(4):
            names["logits"] = model(torch.randn(4, 30))
            names["loss"] = names["logits"].square().mean()
            if train:
                names["loss"].backward()
            exec(line, names)
            del names["logits"], names["loss"]
            after.append(sum(allocation.bytes for allocation in tracker.live()))
    return (after[-1] - after[1]) / 2, names


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("letter", "ABCDE")
def test_which_lines_keep_the_activations(letter):
    question = asked("lines-that-keep-the-graph")
    line = question.choices["ABCDE".index(letter)].text.en.strip("`")
    growth, _ = growth_a_batch(line, train=False)
    activations = 4 * 4 * 30  # bytes: of tanh's output, for 4 samples
    assert (growth >= activations) == (letter in question.key)
    assert growth >= activations or growth == 0


def test_behind_backward_a_sum_keeps_nodes_and_no_activations():
    growth, names = growth_a_batch("total = total + loss", train=True)
    assert growth == 0
    node, sums = names["total"].grad_fn, 0
    while node.name() == "AddBackward0":
        node, sums = node.next_functions[0][0], sums + 1
    assert sums == 4  # one node for each batch
    assert key("the-same-sum-behind-backward") == "B"


@pytest.mark.parametrize("letter", "ABCDEF")
def test_what_lets_memory_go(letter):
    choice = asked("what-lets-memory-go").choices["ABCDEF".index(letter)]
    model = nn.Linear(30, 30)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    gc.collect()
    with MemoryTracker() as tracker:
        model(torch.randn(4, 30)).mean().backward()
        names = {"gc": gc, "torch": torch, "optimizer": optimizer, "out": torch.ones(100)}
        names["losses"] = [model(torch.randn(4, 30)).square().mean() for _ in range(3)]
        names["loss"] = names["losses"][-1]
        if letter == "F":  # "after `del loss`"
            del names["loss"]
        before = sum(allocation.bytes for allocation in tracker.live())
        exec(re.search(r"`(.*?)`", choice.text.en)[1], names)
        assert (sum(allocation.bytes for allocation in tracker.live()) < before) == choice.right


def test_which_tensors_become_a_number():
    for choice in asked("which-become-a-number").choices:
        tensor = eval(choice.text.en.strip("`"))
        if choice.right:
            assert isinstance(tensor.item(), float)
        else:
            with pytest.raises(RuntimeError, match="elements cannot be converted to Scalar"):
                tensor.item()


def test_an_exception_keeps_local_variables():
    def train():
        large = torch.ones(3)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("simulated")

    held = []
    kept = None
    try:
        train()
    except torch.OutOfMemoryError as error:
        kept = error
    assert held[0]() is not None
    del kept
    gc.collect()
    assert held[0]() is None
    assert key("full-after-the-exception") == "B"


def test_the_root_at_zero():
    code = re.search(r"```\n(.*?)```", asked("root-of-zero").text.en, re.DOTALL)[1]
    names: dict[str, Any] = {"torch": torch, "x": torch.tensor([0.0, 4.0], requires_grad=True)}
    exec(code, names)
    names["loss"].backward()
    assert names["loss"] == 2
    assert names["x"].grad.isnan().tolist() == [True, False]
    assert names["x"].grad[1] == 0.25
    assert key("root-of-zero") == "B"


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:Error detected in SqrtBackward0")
def test_the_switch_that_stops_at_the_first_nan():
    switch = getattr(torch.autograd, key("stop-at-the-first-nan")[0])
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    with switch():
        y = torch.where(x > 0, x.sqrt(), torch.zeros_like(x)).sum()
        with pytest.raises(RuntimeError, match="'SqrtBackward0' returned nan"):
            y.backward()


def test_after_the_first_nan_every_layer_has_one():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    (model(torch.randn(3, 4)).mean() * math.nan).backward()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    optimizer.step()
    assert all(parameter.isnan().all() for parameter in model.parameters())
    assert key("order-of-the-search") == "CEADB"


def test_the_limits_of_floats():
    largest = key("largest-exponent")
    assert torch.exp(torch.tensor(float(largest))).isfinite()
    assert torch.exp(torch.tensor(float(largest + 1))).isinf()
    assert math.isfinite(math.exp(709))
    assert torch.tensor(2.0).pow(127).isfinite()
    root = key("largest-square-in-half")
    squares = torch.tensor([root, root + 1, 300], dtype=torch.float16).square()
    assert squares.isfinite().tolist() == [True, False, False]


def test_the_first_losses():
    assert cross_entropy(torch.zeros(8, 100), torch.arange(8)) == pytest.approx(
        key("first-loss-of-a-hundred"), abs=0.001
    )
    perfect = torch.zeros(1, 10)
    perfect[0, 3] = 1.0
    assert cross_entropy(perfect, torch.tensor([3])) == pytest.approx(key("softmax-before-the-loss"), abs=1e-4)


def test_which_checks_find_a_head_outside_the_optimizer():
    torch.manual_seed(0)
    model = nn.Module()
    model.body, model.head = nn.Linear(20, 128), nn.Linear(128, 10)
    optimizer = torch.optim.Adam(model.parameters())
    model.head = nn.Linear(128, 10)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(256, 20)
    y = x[:, :10].argmax(dim=1)
    losses, accuracies = [], []
    for _ in range(20):
        logits = model.head(model.body(x).relu())
        loss = cross_entropy(logits, y)
        model.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        accuracies.append((logits.argmax(dim=1) == y).float().mean().item())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    passes = {
        "A": all(id(parameter) in held for parameter in model.parameters()),
        "B": losses[-1] < losses[0],
        "C": all(not torch.equal(before[name], value) for name, value in model.state_dict().items()),
        "D": all(parameter.grad is not None for parameter in model.parameters()),
        "E": all(parameter.grad.isfinite().all() for parameter in model.parameters()),
        "F": accuracies[-1] > accuracies[0],
    }
    assert {letter for letter, passed in passes.items() if not passed} == set(key("head-outside-the-optimizer"))


def test_neighbors_change_the_answer_in_training_mode():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(8, 3)
    assert torch.equal(model(x), model(x))
    assert (model(x)[:2] - model(x[:2])).abs().max() > 0.01
    model.eval()
    assert (model(x)[:1] - model(x[:1])).abs().max() < 1e-5
    assert key("another-answer-among-others") == "B"


def test_wrong_labels_are_learned_by_heart():
    torch.manual_seed(0)
    x, labels = torch.randn(32, 20), torch.randint(10, (32,))
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    assert cross_entropy(model(x), labels).item() == pytest.approx(math.log(10), abs=0.3)
    for _ in range(100):
        loss = cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert key("labels-against-images") == "C"


def test_a_killed_process_has_the_status_of_its_signal():
    for number, status in ((key("status-137"), 137), (signal.SIGTERM, 143)):
        shell = subprocess.run(
            ["bash", "-c", f"(kill -{int(number)} $BASHPID); echo $?"], capture_output=True, text=True
        )
        assert shell.stdout.split()[-1] == str(status)
    assert key("stacks-on-a-signal")[0] == faulthandler.__name__


class Failing(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise ValueError("a bad record")


class ProcessId(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return os.getpid()


def test_an_exception_of_a_worker_is_handed_on():
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker process 0"):
        list(DataLoader(Failing(), num_workers=1, multiprocessing_context="fork"))
    assert key("worker-killed") == "B"
    here = [
        next(iter(DataLoader(ProcessId(), num_workers=workers, multiprocessing_context="fork" if workers else None)))
        for workers in (0, 1)
    ]
    assert [int(one) == os.getpid() for one in here] == [True, False]
    assert key("workers-for-a-plain-traceback") == 0


def test_what_the_cpu_says_instead():
    with pytest.raises(IndexError, match=re.escape("Target 10 is out of bounds.")):
        cross_entropy(torch.zeros(2, 10), torch.tensor([1, 10]))
    assert key("device-side-assert") == "B"
    error = re.search(r"mat1 .*\)", asked("in-features-of-the-head").text.en)[0]
    with pytest.raises(RuntimeError, match=re.escape(error)):
        nn.Linear(1568, 10)(torch.zeros(64, 3136))
    nn.Linear(int(key("in-features-of-the-head")), 10)(torch.zeros(64, 3136))


def test_a_plain_attribute_stays_behind():
    question = asked("mask-that-stays-behind")
    code = re.search(r"```\n(.*?)```", question.text.en, re.DOTALL)[1]
    for line in ("self.mask = torch.ones(128)", question.choices[1].text.en.strip("`")):
        names = {"torch": torch, "nn": nn}
        exec(code.replace("self.mask = torch.ones(128)", line), names)
        moved = names["Masked"]().to("meta").mask.device.type == "meta"
        assert moved == ("register_buffer" in line)
    assert question.key == "B"


def test_seeds_reach_their_own_generators():
    torch.manual_seed(0)
    first = np.random.rand()
    torch.manual_seed(0)
    assert np.random.rand() != first
    masks = []
    for _ in range(2):
        torch.manual_seed(0)
        masks.append(nn.functional.dropout(torch.ones(50)))
    assert torch.equal(*masks)  # "every step draws the same dropout mask"
    assert key("same-numbers-twice") == "ABD"


def test_a_seed_behind_the_model_fixes_the_order_alone():
    weights, orders = [], []
    for _ in range(2):
        weights.append(nn.Linear(784, 10).weight)
        torch.manual_seed(0)
        orders.append(torch.cat(list(DataLoader(range(200), 64, shuffle=True))))
    assert not torch.equal(*weights)
    assert torch.equal(*orders)
    assert key("differing-from-the-first-loss") == "B"


def test_what_repairs_and_what_mutes():
    x = torch.tensor([[0.0, 200.0]], requires_grad=True)
    (muted,) = torch.autograd.grad((0 * x.softmax(1).log()).sum(), x)
    assert muted.isnan().any()
    (repaired,) = torch.autograd.grad((0 * x.log_softmax(1)).sum(), x)
    assert repaired.isfinite().all()
    assert key("repaired-or-muted") == "ACE"

    gradients = [torch.tensor([1.0, math.nan]), torch.ones(3)]
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(parameters, 1.0)
    assert all(parameter.grad.isnan().all() for parameter in parameters)
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert key("clipped-with-one-nan") == "C"


def test_nan_to_num_shows_a_zero_and_leaves_the_nan():
    weight = nn.Parameter(torch.tensor(1.0))
    x = torch.tensor([1.0, 0.0, 2.0])
    loss = torch.nan_to_num((weight * x * x.log()).mean())
    loss.backward()
    assert loss == 0
    assert weight.grad.isnan()
    assert "0 · ∞ = NaN" in asked("a-smooth-curve-again").model_answer.en


@pytest.mark.slow
def test_what_is_saved_on_the_host_crosses_the_link_twice():
    layer, x = nn.Linear(8, 4), torch.randn(16, 8)
    places = step_with(nn.Sequential(layer), x, "moved to the host")
    assert places.copied == 2 * places.host
    assert key("seconds-on-the-link") == 2 * 8 / 16
    assert key("saved-on-the-host") == "B"
