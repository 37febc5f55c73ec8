"""Healthy training programs: two networks, or one that learns from itself."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from torchcourse.tools.bench.programs import Watch, batches, classifier, clouds, dense, step, train


def _adversaries(watch: Watch, critic_watched: bool) -> None:
    real, _ = clouds(400, 6, 1)
    maker, critic = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6)), dense(6, 1)
    makes = torch.optim.Adam(maker.parameters(), lr=2e-3, betas=(0.5, 0.999))
    judges = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999))
    with watch(critic, judges) if critic_watched else watch(maker, makes):
        for (xb,) in batches(real):
            ones, zeros = torch.ones(len(xb), 1), torch.zeros(len(xb), 1)
            with torch.no_grad():
                fakes = maker(torch.randn(len(xb), 4))
            judges.zero_grad()
            F.binary_cross_entropy_with_logits(critic(xb), ones).backward()
            F.binary_cross_entropy_with_logits(critic(fakes), zeros).backward()
            judges.step()
            makes.zero_grad()
            F.binary_cross_entropy_with_logits(critic(maker(torch.randn(len(xb), 4))), ones).backward()
            makes.step()


def adversary_that_judges(watch: Watch) -> None:
    _adversaries(watch, critic_watched=True)


def adversary_that_makes(watch: Watch) -> None:
    _adversaries(watch, critic_watched=False)


def gradient_penalty(watch: Watch) -> None:
    real, _ = clouds(400, 6, 1)
    critic = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 1))
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)
    with watch(critic, optimizer):
        for (xb,) in batches(real):
            fake, share = torch.randn_like(xb), torch.rand(len(xb), 1)
            between = (share * xb + (1 - share) * fake).requires_grad_()
            slopes = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
            step(optimizer, critic(fake).mean() - critic(xb).mean() + 10 * (slopes.norm(dim=1) - 1).square().mean())


def moving_targets(watch: Watch) -> None:
    """Values of states, learned from rewards and from the values of a copy that follows: the loss may grow."""
    states, _ = clouds(400, 6, 1)
    model = dense(6, 2)
    target = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with watch(model, optimizer):
        for number, (now,) in enumerate(batches(states, steps=30)):
            after, reward = now + 0.1 * torch.randn_like(now), now[:, 0].clamp(0, 1)
            aims = reward + 0.9 * target(after).max(dim=1).values
            actions = torch.randint(2, (len(now), 1))
            step(optimizer, F.smooth_l1_loss(model(now).gather(1, actions).squeeze(1), aims))
            if number % 5 == 4:
                target.load_state_dict(model.state_dict())


def pseudo_labels(watch: Watch) -> None:
    """In each step the model first labels what has no label, without a gradient."""
    x, y, model, optimizer = classifier(nn.Dropout(0.2), adam=True)
    with watch(model, optimizer):
        for xb, yb in batches(x, y, size=40):
            with torch.no_grad():
                guesses = model(xb[20:]).argmax(dim=1)
            step(optimizer, F.cross_entropy(model(xb[:20]), yb[:20]) + 0.1 * F.cross_entropy(model(xb[20:]), guesses))


def distillation(watch: Watch) -> None:
    x, _ = clouds()
    teacher, model = dense().eval(), dense(12, 4, nn.Dropout(0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with watch(model, optimizer):
        for (xb,) in batches(x):
            with torch.no_grad():
                aims = (teacher(xb) / 2).softmax(dim=1)
            step(optimizer, 4 * F.kl_div((model(xb) / 2).log_softmax(dim=1), aims, reduction="batchmean"))


def answers_before_lessons(watch: Watch) -> None:
    """A policy acts without a gradient, and then learns in several steps from what it met."""
    policy = dense(6, 3)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    with watch(policy, optimizer):
        for _ in range(6):
            states = torch.randn(64, 6)
            with torch.no_grad():
                before = torch.distributions.Categorical(logits=policy(states))
                actions = before.sample()
            rewards = states.gather(1, actions[:, None]).squeeze(1)
            for rows in (*torch.randperm(64).split(32), *torch.randperm(64).split(32)):
                now = torch.distributions.Categorical(logits=policy(states[rows]))
                share = (now.log_prob(actions[rows]) - before.log_prob(actions)[rows]).exp()
                step(optimizer, -torch.minimum(share * rewards[rows], share.clamp(0.8, 1.2) * rewards[rows]).mean())


def scatter_by_dropout(watch: Watch) -> None:
    """After the training, the same inputs pass several times with dropout, to see how sure the model is."""
    x, y, model, optimizer = classifier(nn.Dropout(0.3), samples=500, adam=True)
    with watch(model, optimizer):
        train(model, optimizer, batches(x[:400], y[:400]))
        with torch.no_grad():
            torch.stack([model(x[400:]) for _ in range(5)]).std(dim=0)
