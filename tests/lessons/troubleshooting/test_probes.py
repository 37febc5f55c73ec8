"""NanProbe names the first place that is not finite, and leaves the training alone."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jvp

from torchcourse.lessons.troubleshooting.probes import NanProbe, NotFinite

X, Y = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


class Net(nn.Module):
    """A network with a line between its layers, where things can go wrong."""

    def __init__(self, between=lambda h: h):
        super().__init__()
        torch.manual_seed(0)
        self.act: nn.Module = nn.ReLU()
        self.norm: nn.Module = nn.LayerNorm(6)
        self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 3)
        self.between = between

    def forward(self, x):
        return self.last(self.norm(self.between(self.act(self.first(x)))))


def one_step(probe, x=X, loss_fn=lambda out: F.cross_entropy(out, Y)):
    loss = loss_fn(probe.model(x))
    probe.model.zero_grad()
    loss.backward()
    return probe.look(loss)


def test_a_healthy_training_is_bitwise_the_same_with_the_probe_and_nothing_is_found():
    def train(watched):
        model = Net()
        optimizer = torch.optim.Adam(model.parameters())
        probe = NanProbe(model) if watched else None
        for _ in range(5):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            loss.backward()
            if probe:
                probe.check(loss)
            optimizer.step()
        return nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(train(True), train(False))


def test_the_step_is_counted():
    probe = NanProbe(Net())
    assert [one_step(probe) for _ in range(3)] == [None] * 3
    found = one_step(probe, x=X / 0)
    assert found.step == 3


def place(found):
    return found.phase, found.layer, found.kind


def test_nan_in_the_data():
    x = X.clone()
    x[3, 2] = torch.nan
    assert place(one_step(NanProbe(Net()), x)) == ("data", "first", "nan")


def test_nan_in_a_weight_is_blamed_on_the_weight_and_not_on_the_layers_work():
    model = Net()
    model.last.weight.data[0, 0] = torch.nan
    found = one_step(NanProbe(model))
    assert place(found) == ("weights", "last", "nan")
    assert "`last.weight`" in str(found)


def test_a_layer_that_overflows_is_named_with_the_sizes_before_it():
    model = Net()
    model.first.weight.data.fill_(1e38)
    found = one_step(NanProbe(model), X.abs() * 1e3)
    assert place(found) == ("forward", "first", "inf")
    assert "input of `first` (Linear), at most" in found.evidence
    assert "weights are finite" in found.evidence


def test_a_line_between_two_layers_is_found_at_the_input_of_the_next():
    kept = []  # so that the two tensors live at the same time
    found = one_step(NanProbe(Net(lambda h: kept.append(h) or (h - h.mean(dim=1, keepdim=True)).sqrt())))
    assert place(found) == ("forward", "norm", "nan")
    assert "between the layers" in found.evidence


def test_what_is_divided_in_place_between_two_layers_is_found_though_it_is_the_same_tensor():
    model = Net(lambda h: h.div_(0))
    model.act = nn.Identity()  # ReLU would need its output again
    found = one_step(NanProbe(model))
    assert place(found) == ("forward", "norm", "inf")


def test_a_loss_that_is_no_number_though_the_outputs_are():
    found = one_step(NanProbe(Net()), loss_fn=lambda out: (out.relu() * 0).log().sum())
    assert place(found) == ("loss", "", "inf")


class Ends(Net):
    """A network with a line after its last layer; what it returns may be an object with the tensor in it."""

    def __init__(self, after, wrap=lambda out: out):
        super().__init__()
        self.after, self.wrap = after, wrap

    def forward(self, x):
        return self.wrap(self.after(super().forward(x)))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


def test_a_line_after_the_last_layer_is_not_the_loss():
    found = one_step(NanProbe(Ends(lambda out: out.sqrt())))
    assert place(found) == ("forward", "", "nan")
    assert "after the last layer" in found.evidence
    inside = one_step(NanProbe(Ends(lambda out: out.sqrt(), Output)), loss_fn=lambda o: F.cross_entropy(o.logits, Y))
    assert "after the last layer" in inside.evidence
    masked = NanProbe(Ends(lambda out: out.masked_fill(torch.arange(3) == 2, -torch.inf)))
    assert one_step(masked, loss_fn=lambda out: F.cross_entropy(out, Y % 2)) is None
    missing = NanProbe(Ends(lambda out: torch.cat([out, out.detach()[:, :1] * torch.nan], dim=1)))
    assert one_step(missing, loss_fn=lambda out: out[:, :3].square().mean()) is None  # the loss leaves them out


def test_an_input_that_a_line_between_two_calls_has_made_is_not_the_batch():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    probe = NanProbe(model)
    loss = (model(model(X) / 0 * 0) - X).square().mean()
    loss.backward()
    found = probe.look(loss)
    assert found.phase == "forward"
    assert "a line outside the model has computed it" in found.evidence


def test_layers_that_run_inside_a_transform_alone_are_not_called_finite():
    model = nn.Sequential(nn.Linear(8, 3), nn.Softplus())
    probe = NanProbe(model)
    out, _ = jvp(lambda x: model(x - x.mean(1, keepdim=True)).sub(100).log(), (X,), (X,))
    loss = F.cross_entropy(out, Y)
    loss.backward()
    assert "it cannot be told where" in probe.look(loss).evidence


def test_a_backward_pass_that_fails_alone_is_found_where_the_gradient_came_from():
    # sqrt is fine at 0, but its gradient there is infinite.
    found = one_step(NanProbe(Net(lambda h: h.relu().mul(0).sqrt())))
    assert found.phase == "backward"
    assert found.layer == "act"
    assert "forward pass was finite" in found.evidence
    assert "norm" not in found.layer


def test_the_backward_pass_of_the_loss():
    found = one_step(NanProbe(Net()), loss_fn=lambda out: (out * 0).sqrt().sum())
    assert place(found) == ("backward", "last", "nan")
    assert "loss function's backward pass" in found.evidence


def test_a_gradient_of_a_weight_that_only_its_own_layer_spoils():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            return x * weight

        @staticmethod
        def backward(ctx, gradient):
            return gradient, torch.full((6,), torch.inf)

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return Bad.apply(x, self.weight)

    model = Net()
    model.norm = Scale()
    found = one_step(NanProbe(model))
    assert place(found) == ("backward", "norm", "inf")
    assert "`norm.weight`" in found.what


def test_large_gradients_whose_norm_overflows_are_no_alarm():
    model = nn.Linear(8, 3)
    probe = NanProbe(model)
    loss = model(X).mean()
    loss.backward()
    model.weight.grad.fill_(1e30)
    assert probe.look(loss) is None


@pytest.mark.filterwarnings("ignore:NanProbe looks")
def test_overflow_in_float16_says_where_float16_ends():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).half()
    model[0].weight.data.fill_(300)
    loss = model(X.half().abs() * 100).float().sum()
    found = NanProbe.look(probe := NanProbe(model), loss)
    assert found.phase == "loss"  # the probe was put on too late, so it saw the loss alone
    loss = model(X.half().abs() * 100).float().sum()
    found = probe.look(loss)
    assert (found.phase, found.layer) == ("forward", "0")
    assert "65504" in found.evidence


class Masked(nn.Module):
    """Softmax over numbers of which a mask hides some; the mask is a line of forward(), or a module."""

    def __init__(self, last, hidden, mask=None):
        super().__init__()
        self.first, self.mask, self.last = nn.Linear(8, 8), mask or (lambda h: h), last
        self.hidden = hidden

    def forward(self, x):
        return self.last(self.mask(self.first(x).masked_fill(self.hidden, -torch.inf)))


NEXT = torch.ones(16, 8).triu(1).bool()


@pytest.mark.parametrize("mask", [None, nn.Identity()])
@pytest.mark.parametrize("last", [nn.Softmax(-1), nn.LogSoftmax(-1), nn.ReLU()])
def test_a_mask_of_minus_infinity_is_no_alarm(last, mask):
    def loss_fn(out):
        return out[~NEXT].square().sum()

    assert one_step(NanProbe(Masked(last, NEXT, mask)), loss_fn=loss_fn) is None


def test_a_mask_that_hides_everything_and_a_fault_behind_a_mask_are_found():
    everything = Masked(nn.Softmax(-1), torch.ones(16, 8).bool())
    assert place(one_step(NanProbe(everything), loss_fn=torch.sum)) == ("forward", "last", "inf")
    found = one_step(NanProbe(Masked(nn.Softmax(-1), NEXT)), loss_fn=lambda out: out.sum() / 0)
    assert place(found) == ("loss", "", "inf")


def test_check_raises_with_the_finding_and_close_takes_the_hooks_away():
    with NanProbe(Net()) as probe:
        loss = probe.model(X / 0).sum()
        with pytest.raises(NotFinite, match="Step 0, data") as error:
            probe.check(loss)
        assert error.value.finding.layer == "first"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in probe.model.modules())


def test_in_place_layers_and_evaluation_do_no_harm():
    probe = NanProbe(nn.Sequential(nn.Linear(8, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)))
    assert one_step(probe) is None
    with torch.no_grad():
        loss = F.cross_entropy(probe.model.eval()(X), Y)
    assert probe.look(loss) is None
    with torch.inference_mode():
        probe.model(X)
    assert probe.look() is None


# A scaler makes gradients overflow on purpose.


def half_precision_run(steps, init_scale, check, loss_of=lambda out: F.cross_entropy(out.float(), Y)):
    """Train in float16 on the CPU; return the steps in which the scale fell."""
    model = Net()
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    optimizer, fell = torch.optim.SGD(model.parameters(), lr=0.1), []
    with NanProbe(model) as probe:
        for step in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                out = model(X)
            loss, scale = loss_of(out), scaler.get_scale()
            scaler.scale(loss).backward()
            check(probe, loss, scaler)
            scaler.step(optimizer)
            scaler.update()
            fell += [step] if scaler.get_scale() < scale else []
    return fell, probe.skipped


@pytest.mark.parametrize("told", [True, False])
def test_gradients_that_a_scaler_makes_overflow_are_no_fault_and_the_skipped_steps_are_said(told):
    def check(probe, loss, scaler):
        if told:
            probe.check(loss, scaler=scaler)
        else:
            scaler.get_scale()
            probe.check(loss)

    fell, skipped = half_precision_run(25, 2.0**24, check)
    assert len(fell) > 2
    assert [finding.step for finding in skipped] == fell
    assert "the scaler skips this step" in str(skipped[0])


def test_a_gradient_that_no_scale_mends_and_a_fault_before_it_are_found_with_a_scaler_too():
    def check(probe, loss, scaler):
        probe.check(loss, scaler)

    with pytest.raises(NotFinite, match="scaled by 1 alone") as error:
        half_precision_run(30, 2.0**6, check, lambda out: (out.float() * 0).sqrt().sum())
    assert error.value.finding.step == 6
    with pytest.raises(NotFinite, match="Step 0, loss"):
        half_precision_run(2, 2.0**6, check, lambda out: out.float().sum() / 0)


LEFT_BEHIND = [torch.amp.GradScaler("cpu")]


def test_a_scaler_that_this_loop_does_not_name_excuses_nothing():
    LEFT_BEHIND[0].scale(torch.ones(()))
    found = one_step(NanProbe(Net()), loss_fn=lambda out: (out * 0).sqrt().sum())
    assert found.phase == "backward"
    assert "scaler=scaler" in found.evidence


# Hooks that do not run are noticed.


def compiled(model):
    model = torch.compile(model, backend="eager", fullgraph=True)
    model(X)
    return model


def compiled_later(model):
    return torch.compile(model, backend="eager", fullgraph=True)


def scripted(model):
    return torch.jit.script(model)


def traced(model):
    return torch.jit.trace(model, X)


@pytest.fixture
def clean_compiler():
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("make", [compiled, compiled_later, scripted, traced])
def test_a_model_that_runs_past_its_hooks_is_noticed_and_the_loss_not_blamed(make, clean_compiler):
    plain = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    probe = NanProbe(plain) if make is compiled_later else None
    model = make(plain)
    probe = probe or NanProbe(model)
    loss = F.cross_entropy(model(X), Y)
    with pytest.warns(UserWarning, match="saw no layer"):
        assert probe.look(loss) is None
    found = probe.look(F.cross_entropy(model(X), Y) / 0)
    assert place(found) == ("loss", "", "inf")
    assert "saw no layer" in found.evidence
    assert "loss function made it" not in found.evidence
    assert "Is its model still the one that is trained" in found.evidence  # in a cell that makes it again, it is not
    next(model.parameters()).data[0, 0] = torch.nan
    found = probe.look(F.cross_entropy(model(X), Y))
    assert found.phase == "weights"
    assert "0.weight`" in found.what


def test_the_layers_of_a_symbolic_trace_are_watched():
    probe = NanProbe(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))))
    probe.model.get_submodule("2").weight.data[0, 0] = torch.nan
    assert place(one_step(probe)) == ("weights", "2", "nan")


# Who is not to blame.


class Attention(nn.Module):
    """Attention with a mask that is handed in, and a vector that is added between the layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.place = nn.Parameter(torch.zeros(8))
        self.first, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x, mask=None, missing=None):
        h = self.first(x) + self.place
        if missing is not None:
            h = h + missing.nan_to_num()
        return self.last(self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]).mean(dim=1)


SEQUENCE = X.view(4, 4, 8)
CAUSAL = torch.full((4, 4), -torch.inf).triu(1)
MISSING = torch.tensor([torch.nan] + [1.0] * 7)


def attend(probe, *inputs, **more):
    loss = F.cross_entropy(probe.model(*inputs, **more), Y[:4])
    loss.backward()
    return probe.look(loss)


@pytest.mark.parametrize("more", [{"mask": CAUSAL}, {"missing": MISSING}, {"mask": CAUSAL, "missing": MISSING}])
def test_masks_and_missing_values_that_the_model_takes_care_of_are_no_alarm(more):
    assert attend(NanProbe(Attention()), SEQUENCE, **more) is None


def test_scores_of_minus_infinity_that_come_out_of_the_model_are_no_alarm():
    allowed = torch.tensor([True, True, False])
    model = nn.Sequential(nn.Linear(8, 3), Masked(nn.Identity(), ~allowed))
    model[1].first = nn.Identity()
    probe = NanProbe(model)
    loss = F.cross_entropy(model(X), Y % 2)
    loss.backward()
    assert probe.look() is None  # without the loss too
    assert one_step(probe, loss_fn=lambda out: F.cross_entropy(out, Y % 2)) is None


@pytest.mark.parametrize("name", ["place", "attention.in_proj_weight", "attention.out_proj.weight", "last.weight"])
def test_a_weight_that_was_nan_before_the_first_step_is_blamed_wherever_it_is(name):
    model = Attention()
    model.requires_grad_(False)
    model.last.bias.requires_grad_()
    model.get_parameter(name).view(-1)[0] = torch.nan
    found = attend(NanProbe(model), SEQUENCE, mask=CAUSAL)
    assert (found.phase, found.what) == ("weights", f"the weight `{name}`")
    assert "before the first step" in found.evidence


def test_a_tied_weight_and_a_running_variance_are_blamed_in_the_layer_that_uses_them():
    embedding = nn.Embedding(5, 8)
    model = nn.Sequential(embedding, nn.BatchNorm1d(8), nn.Linear(8, 5, bias=False))
    model[2].weight = embedding.weight
    embedding.weight.data[4, 0] = torch.nan  # a row that no token looks up
    probe = NanProbe(model)
    found = probe.look(model(torch.tensor([0, 1, 2])).sum())
    assert (found.phase, found.layer, found.what) == ("weights", "2", "the weight `2.weight`")
    embedding.weight.data[4, 0] = 0
    model[1].running_var[0] = torch.nan
    found = NanProbe.look(probe, model.eval()(torch.tensor([0, 1, 2])).sum())
    assert (found.phase, found.what) == ("weights", "the buffer `1.running_var`")


@pytest.mark.parametrize("how", ["first", "later", "by name"])
def test_data_is_blamed_wherever_it_comes_in(how):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 6), nn.Linear(6, 3)

        def forward(self, x, scale=1.0):
            return self.last(self.first(x * 1.0) * scale)

    bad = torch.full((16, 1), torch.nan)
    given = {"first": ((X * bad,), {}), "later": ((X, bad), {}), "by name": ((), {"x": X, "scale": bad})}
    probe = NanProbe(Two())
    inputs, more = given[how]
    found = probe.look(probe.model(*inputs, **more).sum())
    assert found.phase == "data"
    assert "came with the batch" in found.evidence


def test_a_line_before_the_first_layer_is_not_the_data():
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x):
            return self.layer(x.log())

    found = one_step(NanProbe(Log()), X)
    assert found.phase == "forward"
    assert "given finite values" in found.evidence


def test_an_evaluation_that_nobody_checks_is_no_part_of_the_next_step_and_takes_no_memory():
    probe = NanProbe(Net())
    with torch.no_grad():
        for _ in range(5):
            probe.model(X / 0)
    assert len(probe._record.values) < 20
    assert one_step(probe) is None
    with torch.no_grad():
        assert probe.look(probe.model(X / 0).sum()).phase == "data"  # one that is checked is judged


def test_a_gradient_that_nobody_has_cleared_and_one_that_clipping_spreads():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    probe = NanProbe(model)
    F.cross_entropy(model(X), Y).backward()
    model[0].weight.grad[0, 0] = torch.nan
    assert "own backward pass" in probe.look().evidence
    F.cross_entropy(model(X), Y).backward()
    assert "zero_grad() is missing" in probe.look().evidence
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    model.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    model[1].weight.grad[0, 0] = torch.nan
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    probe._before = None
    assert "before clip_grad_norm_" in probe.look().evidence


def test_a_gradient_that_overflows_and_reaches_no_weight_is_no_alarm():
    class Root(nn.Module):
        def forward(self, x):
            return x.sqrt()

    probe = NanProbe(nn.Sequential(nn.Identity(), Root(), nn.Linear(8, 3)))
    x = torch.zeros(16, 8, requires_grad=True)
    assert one_step(probe, x) is None
    assert not x.grad.isfinite().all()


def test_numbers_of_float64_that_float32_does_not_hold_are_no_alarm():
    model = nn.Linear(8, 3).double()
    probe = NanProbe(model)
    loss = (model(X.double() * 1e60)).mean()
    loss.backward()
    assert probe.look(loss) is None


@pytest.mark.gpu
def test_a_probe_on_a_gpu_waits_for_it_once_a_step():
    model = Net().cuda()
    probe = NanProbe(model)
    x, y = X.cuda(), Y.cuda()
    F.cross_entropy(model(x), y).backward()  # kernels are chosen and workspaces made
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = F.cross_entropy(model(x), y)  # recording alone never waits
        loss.backward()
        with pytest.raises(RuntimeError, match="synchroniz"):
            probe.check(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loss_that_is_a_number_is_judged_and_what_is_no_model_refused():
    probe = NanProbe(Net())
    probe.model(X)
    assert probe.look(1.5) is None
    probe.model(X)
    assert probe.look(float("nan")).phase == "loss"
    with pytest.raises(TypeError, match=r"watches a model, .* and got SGD"):
        NanProbe(torch.optim.SGD(probe.model.parameters()))
