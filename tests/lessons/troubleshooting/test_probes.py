"""NanProbe names the first place that is not finite, and leaves the training alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


@pytest.mark.gpu
def test_a_probe_on_a_gpu_waits_for_it_once_a_step():
    model = Net().cuda()
    probe = NanProbe(model)
    loss = F.cross_entropy(model(X.cuda()), Y.cuda())
    loss.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            probe.check(loss)
        probe.model(X.cuda()[:8])  # recording alone never waits
    finally:
        torch.cuda.set_sync_debug_mode("default")
