"""find_leaks says by how much memory grows, who holds it, and at which line; on a healthy loop it says nothing."""

import copy
import gc
import io
import itertools
import threading
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.lessons.troubleshooting.leaks import LeakWatch, find_leaks

X, Y = torch.randn(32, 20), torch.randint(5, (32,))
HIDDEN = 32 * 16 * 4  # bytes of the hidden layer's output


@pytest.fixture(autouse=True, scope="module")
def only_new_objects():
    """Let Python's collector leave out what was there before: a search then takes a tenth of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))


def trainer(model, after=lambda out, loss: None, optimizer=torch.optim.Adam):
    """A training step; `after` may keep something of it."""
    steps = optimizer(model.parameters())

    def step():
        steps.zero_grad()
        out = model(X)
        loss = F.cross_entropy(out, Y)
        loss.backward()
        steps.step()
        after(out, loss)

    return step


def only(report):
    """The one leak of a report."""
    assert len(report.leaks) == 1, str(report)
    return report.leaks[0]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_healthy_loop_has_no_leak_though_it_keeps_floats_and_the_last_output(optimizer):
    kept = {"losses": []}

    def keep(out, loss):
        kept["losses"].append(loss.item())
        kept["last"] = out

    report = find_leaks(trainer(network(), keep, optimizer), steps=6)
    assert report.leaks == []
    assert report.bytes_a_step == 0
    assert "do not grow" in str(report)


@pytest.mark.slow
def test_a_list_of_outputs_is_named_with_the_line_that_appends():
    outputs = []
    leak = only(find_leaks(trainer(network(), lambda out, loss: outputs.append(out)), steps=6))
    assert leak.bytes_a_step == 32 * 5 * 4
    assert "`outputs`" in leak.holder
    assert "addmm" in leak.made
    assert "outputs.append(out)" in leak.line.text


class Recorder:
    def __init__(self):
        self.history = {}

    def log(self, out, loss):
        self.history[len(self.history)] = out.softmax(1)


@pytest.mark.slow
def test_an_attribute_is_named_with_its_class():
    recorder = Recorder()
    leak = only(find_leaks(trainer(network(), recorder.log), steps=6))
    assert "`.history` of a Recorder" in leak.holder
    assert leak.line.text == "self.history[len(self.history)] = out.softmax(1)"


@pytest.mark.slow
def test_a_hook_that_keeps_outputs_in_its_closure_is_named():
    model, kept = network(), []

    def remember(module, inputs, output):
        kept.append(output.detach())

    model[1].register_forward_hook(remember)
    leak = only(find_leaks(trainer(model), steps=6))
    assert leak.bytes_a_step == HIDDEN
    assert "`kept`" in leak.holder
    assert leak.line.text == "kept.append(output.detach())"


@pytest.mark.slow
def test_a_hook_whose_list_nobody_else_has_is_found_through_the_module():
    model = network()

    def add():
        kept = []

        def remember(module, inputs, output):
            kept.append(output.detach())

        model[1].register_forward_hook(remember)

    add()
    leak = only(find_leaks(trainer(model), steps=6))
    assert "closure of remember() in `._forward_hooks` of a ReLU" in leak.holder
    assert leak.line.text == "kept.append(output.detach())"


@pytest.mark.slow
def test_a_kept_exception_is_named_with_the_variable_in_its_frame():
    model, errors = network(), []

    def step():
        try:
            activations = model[:2](X)
            if activations.isfinite().all():
                raise ValueError("this batch is skipped")
        except ValueError as error:
            errors.append(error)

    leak = only(find_leaks(step, steps=6))
    assert "traceback of a kept ValueError" in leak.holder
    assert "`activations` of step()" in leak.holder
    assert leak.line.text == "errors.append(error)"


@pytest.mark.slow
def test_what_failed_in_the_operation_itself_is_not_kept_by_the_watch():
    errors, model = [], network()

    def step():
        activations = model[:2](X)
        try:
            activations @ torch.zeros(3)
        except RuntimeError as error:
            errors.append(error)

    assert "`activations` of step()" in only(find_leaks(step, steps=6)).holder


@pytest.mark.slow
def test_weights_that_a_kept_graph_keeps_are_named_with_it():
    outputs = []
    leaks = find_leaks(lambda: outputs.append(network()(X)), steps=6).leaks
    assert sum(leak.bytes_a_step for leak in leaks) > 4 * (20 * 16 + 16 * 5)
    assert all("`outputs`" in leak.holder for leak in leaks)


def step_with_a_list_of_its_own(keeps):
    """A step that nobody but its caller knows: the search ends at its closure."""
    model, kept = network(), []

    def fails():
        activations = model[:2](X)
        try:
            activations.view(7)
        except RuntimeError as error:
            kept.append(error)

    def halves():
        activations = model[:2](X).detach()
        yield activations[:16]
        yield activations[16:]

    def begins():
        begun = halves()
        next(begun)
        kept.append(begun)

    return {"an exception": fails, "a generator": begins}[keeps]


@pytest.mark.slow
@pytest.mark.parametrize("keeps", ["an exception", "a generator"])
def test_a_frame_that_is_kept_is_no_holder_but_the_list_that_keeps_it(keeps):
    leak = only(find_leaks(step_with_a_list_of_its_own(keeps), steps=6))
    assert leak.bytes_a_step == HIDDEN
    assert "`kept` in the closure of" in leak.holder
    assert leak.line.text.startswith("kept.append(")


@pytest.mark.slow
def test_a_running_loss_without_backward_keeps_the_activations_through_its_graph():
    model, total = network(), [torch.zeros(())]

    def validate():
        loss = F.cross_entropy(model(X), Y)
        total[0] = total[0] + loss

    leak = only(find_leaks(validate, steps=6))
    assert leak.bytes_a_step >= HIDDEN
    assert "the autograd graph" in leak.holder
    assert leak.line.text == "total[0] = total[0] + loss"


@pytest.mark.slow
def test_a_running_loss_after_backward_keeps_nodes_and_no_memory_of_tensors():
    class Log:
        total = 0.0

    log = Log()

    def add(out, loss):
        log.total = log.total + loss

    leak = only(find_leaks(trainer(network(), add), steps=8))
    assert leak.bytes_a_step == 0
    assert leak.nodes_a_step >= 3
    assert leak.line.text == "log.total = log.total + loss"


@pytest.mark.slow
def test_a_tensor_from_before_that_is_added_to_in_place_is_found_too():
    model, total = network(), torch.zeros(())

    def validate():
        total.add_(F.cross_entropy(model(X), Y))

    leak = only(find_leaks(validate, steps=6))
    assert leak.bytes_a_step >= HIDDEN
    assert "the autograd graph" in leak.holder
    assert "`total`" in leak.holder


@pytest.mark.slow
def test_two_leaks_are_told_apart_the_larger_first():
    small, large = [], []

    def keep(out, loss):
        small.append(loss.detach())
        large.append(out.detach())

    report = find_leaks(trainer(network(), keep), steps=6)
    assert [leak.line.text for leak in report.leaks] == ["large.append(out.detach())", "small.append(loss.detach())"]
    assert report.leaks[0].bytes_a_step == 40 * report.leaks[1].bytes_a_step * 4


@pytest.mark.slow
def test_a_loop_of_ones_own_is_watched_and_its_local_list_found():
    predictions = []
    step = trainer(network())
    with LeakWatch() as watch:
        for _ in range(6):
            step()
            predictions.append(network()(X).argmax(1))
            watch.step()
    leak = only(watch.report())
    assert "`predictions`" in leak.holder
    assert leak.bytes_a_step == 32 * 8


@pytest.mark.slow
def test_reference_cycles_are_told_from_leaks():
    class Node:
        itself: "Node"
        data: torch.Tensor

    def step():
        node = Node()
        node.itself, node.data = node, torch.ones(1000)

    gc.disable()
    try:
        report = find_leaks(step, steps=6)
    finally:
        gc.enable()
    assert report.leaks == []
    assert report.bytes_in_cycles == 6 * 4000
    assert "reference cycles" in str(report)


@pytest.mark.slow
def test_a_layer_that_is_not_made_yet_somewhere_in_the_process_is_no_obstacle():
    waiting = nn.LazyLinear(3)  # its parameters have no memory, and asking for it raises
    outputs = []
    leak = only(find_leaks(trainer(network(), lambda out, loss: outputs.append(out)), steps=6))
    assert leak.bytes_a_step == 32 * 5 * 4
    assert waiting.has_uninitialized_params()


WEIGHTS = {"weight": torch.ones(30, 30)}


def deep_copies(kept):
    kept.append(copy.deepcopy(WEIGHTS))


def from_a_list(kept):
    kept.append(torch.tensor([1.0] * 900))


def from_numpy(kept):
    kept.append(torch.from_numpy(np.ones(900, dtype=np.float32)))


def from_a_file(kept):
    file = io.BytesIO()
    torch.save(torch.ones(900), file)
    file.seek(0)
    kept.append(torch.load(file))


def from_bytes(kept):
    kept.append(torch.frombuffer(bytearray(3600), dtype=torch.float32))


def from_a_thread(kept):
    thread = threading.Thread(target=lambda: kept.append(torch.ones(900)))
    thread.start()
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("make", [deep_copies, from_a_list, from_numpy, from_a_file, from_bytes, from_a_thread])
def test_what_no_operation_makes_leaks_too(make):
    kept = []
    leak = only(find_leaks(lambda: make(kept), steps=5))
    assert leak.bytes_a_step == 3600
    assert "`kept`" in leak.holder
    if make in (from_bytes, from_a_thread):
        assert "made out of sight" in leak.made
    else:
        assert "kept.append" in leak.line.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "objects", "storage"])
def test_memory_that_grows_in_no_tensor_is_named(kind):
    makers = {
        "array": lambda: np.ones(2**17),
        "objects": lambda: [float(number) for number in range(30_000)],
        "storage": lambda: torch.UntypedStorage(2**20),
    }
    kept = []
    report = find_leaks(lambda: kept.append(makers[kind]()), steps=6)
    assert report.leaks == []
    assert report.unseen_a_step == pytest.approx(2**20, rel=0.3)
    assert "in no tensor that I can see" in str(report)


@pytest.mark.slow
def test_memory_that_comes_and_goes_is_not_named():
    batches, step = itertools.cycle([20, 60, 40]), trainer(network())

    def healthy():
        step()
        np.ones(2**20).sum()
        torch.ones(next(batches), 1000).sin().sum().item()
        return [float(number) for number in range(30_000)]

    report = find_leaks(healthy, steps=8)
    assert report.unseen_a_step == 0
    assert report.leaks == []


def old_graph(length=150):
    total = torch.zeros(())
    for _ in range(length):
        total = total + network()[0].bias.sum()
    return total


@pytest.mark.slow
def test_the_graph_that_grows_is_accused_and_not_the_largest():
    average, old_total = {"loss": 0.0}, old_graph()

    def add(out, loss):
        average["loss"] = 0.9 * average["loss"] + 0.1 * loss

    leak = only(find_leaks(trainer(network(), add), steps=6))
    assert "`average`" in leak.holder
    assert leak.line.text == 'average["loss"] = 0.9 * average["loss"] + 0.1 * loss'
    assert old_total.grad_fn is not None


@pytest.mark.slow
def test_two_growing_graphs_and_a_list_have_three_holders_the_list_first():
    sums, outputs = {"loss": 0.0, "first": 0.0}, []

    class Log:
        total = 0.0

    log = Log()

    def add(out, loss):
        sums["loss"] = sums["loss"] + out.mean()
        log.total = log.total + loss
        outputs.append(out.detach())

    report = find_leaks(trainer(network(), add), steps=6)
    assert len(report.leaks) == 3, str(report)
    assert "`outputs`" in report.leaks[0].holder
    assert {leak.line.text.partition(" ")[0] for leak in report.leaks[1:]} == {'sums["loss"]', "log.total"}


@pytest.mark.slow
def test_what_is_computed_from_a_running_value_in_each_step_is_not_its_holder():
    state = types.SimpleNamespace(running=0.0, mean=0.0)

    def add(out, loss):
        state.running = state.running + loss
        state.mean = state.running / 10

    leak = only(find_leaks(trainer(network(), add), steps=6))
    assert leak.line.text == "state.running = state.running + loss"


@pytest.mark.slow
def test_a_large_graph_that_each_step_makes_anew_or_builds_upon_is_no_leak():
    state, constant = {}, old_graph(50)

    def step():
        state["new"] = old_graph(20) + constant

    assert find_leaks(step, steps=6).leaks == []


@pytest.mark.slow
def test_a_cycle_through_a_function_of_ones_own_accuses_no_graph():
    old_total = old_graph(50)

    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.result = x * 2
            return ctx.result

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    x = torch.ones(100, requires_grad=True)
    gc.disable()
    try:
        report = find_leaks(lambda: Keeps.apply(x).sum().backward(), steps=6)
    finally:
        gc.enable()
    assert report.leaks == []
    assert old_total.requires_grad
    assert report.bytes_in_cycles > 0


@pytest.mark.slow
def test_batches_of_many_lengths_and_one_line_that_fills_two_lists():
    lengths, short, long = itertools.count(10), [], []

    def step():
        for kept in (short, long):
            kept.append(torch.ones(next(lengths), 3) * 2)

    report = find_leaks(step, steps=6)
    assert sorted(leak.holder.partition(" of test_")[0] for leak in report.leaks) == [
        "a list of 6, the local variable `long`",
        "a list of 6, the local variable `short`",
    ]


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="at least 5"):
        find_leaks(lambda: None, steps=3)


def of_two_halves():
    yield


@pytest.mark.parametrize("given", [None, of_two_halves])
def test_a_step_that_was_called_and_one_that_would_never_run_are_refused(given):
    with pytest.raises(TypeError, match="pass the function, without parentheses"):
        find_leaks(given)


@pytest.mark.gpu
def test_a_leak_on_a_gpu_is_found_the_same_way():
    kept, numbers = [], itertools.count()

    def step():
        kept.append(torch.full((1000,), next(numbers), device="cuda", dtype=torch.float32))

    leak = only(find_leaks(step, steps=6))
    assert leak.bytes_a_step == 4000
    assert "`kept`" in leak.holder


@pytest.mark.slow
def test_a_step_that_only_the_watch_holds_still_has_a_holder():
    class Loop:
        def __init__(self):
            self.outputs = []

        def step(self):
            self.outputs.append(torch.zeros(100, 100))

    def make():
        history = []
        return lambda: history.append(torch.zeros(100, 100))

    assert "the variable `history` in the closure of" in str(find_leaks(make(), steps=5))
    assert "`.outputs` of a Loop" in str(find_leaks(Loop().step, steps=5))
