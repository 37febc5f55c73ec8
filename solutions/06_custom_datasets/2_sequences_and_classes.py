# %% [markdown]
# # Sequences, classes and splits: what belongs in one batch, and what in one part
#
# **{minutes} minutes** · one CPU is enough (two processes) · before this: [datasets](1_datasets.ipynb)
#
# Real data are not as even as digits: spoken vowels have different lengths, classes have very different sizes, and samples
# belong together. Each of the three can make a model look better than it is, and none raises an error.
#
# **After this notebook you can**
#
# 1. collate sequences of different lengths with padding, masks and packing;
# 2. handle imbalance with a weighted sampler or with loss weights, and say how they differ;
# 3. find a split that leaks, and split by group instead.

# %% setup

# %%
from torchcourse.quiz import outcome, predict, recall

recall("06_custom_datasets")

# %%
import functools
import itertools
from collections import Counter

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from torchcourse import environment, figures
from torchcourse.data import mnist, vowels
from torchcourse.lessons.datasets import collate_picture
from torchcourse.lessons.datasets.checks import datasets as check
from torchcourse.lessons.datasets.collate import pad
from torchcourse.lessons.datasets.samplers import (
    BucketBatches,
    WeightedSamples,
    balanced,
    class_weights,
    padding_share,
)
from torchcourse.lessons.datasets.splits import leaks, split_by_group
from torchcourse.models import mlp
from torchcourse.ranks import export_script, run_ranks
from torchcourse.training import Trainer

torch.set_num_threads(1)
print(environment.hardware())

# %% [markdown]
# ## 1 · Sequences of different lengths
#
# Nine speakers say /ae/, 30 times each. Each recording is a sequence of frames, one for every 6.4 ms, with 12 numbers per frame
# ([Kudo, Toyama and Shimbo 1999](https://doi.org/10.24432/C5NS47), CC BY 4.0). Who speaks?

# %%
train, test = vowels("train"), vowels("test")
x, speaker = train[0]
print(f"{len(train)} recordings; the first: {list(x.shape)}, speaker {speaker}")
try:
    next(iter(DataLoader(train, 4)))
except RuntimeError as error:
    print(str(error).split(" at entry")[0])

# %%
figure, axis = figures.new(6.5, 2.6)
counts = train.lengths.bincount()
axis.bar(range(len(counts)), counts)
found = (
    f"From {train.lengths.min()} to {train.lengths.max()} frames, with a median of "
    f"{train.lengths.median()}"
)
axis.set(xlabel="length, frames of 6.4 ms", ylabel="recordings", title=found)
figures.show(figure, f"Histogram of the lengths of the training recordings. {found}.")

# %% [markdown]
# A tensor is a box, so short sequences are filled up (**padding**, 패딩) to the longest of the batch. What is filled in is not data. A **mask**
# (마스크) says which steps are real.
#
# ### Exercise 1 · Collate
#
# ●●○ · 8 minutes · good for: speech, text, sensor data, boxes in pictures.


# %% exercise: collate
def collate(samples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, ...]:
    """Return x [N, T, C] with zeros after each sequence, lengths [N], mask [N, T]
    (True: real), labels [N].
    """
    ### BEGIN SOLUTION
    sequences, labels = zip(*samples, strict=True)
    lengths = torch.tensor([len(x) for x in sequences])
    x = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    mask = torch.arange(x.shape[1]) < lengths[:, None]
    return x, lengths, mask, torch.tensor(labels)
    ### END SOLUTION


# %% check: collate
checked = check.collate(collate, points=2)
### BEGIN HIDDEN TESTS
for _numbers in ((0, 40, 269), (7,), (100, 101, 102, 103, 5)):
    _samples = [train[n] for n in _numbers]
    _x, _lengths, _mask, _labels = collate(_samples)
    assert _x.shape == (len(_numbers), max(len(x) for x, _ in _samples), 12)
    assert torch.equal(_x[_mask], torch.cat([x for x, _ in _samples]))
    assert not _x[~_mask].any()
    assert _mask.sum(1).tolist() == _lengths.tolist() == [len(x) for x, _ in _samples]
    assert _labels.tolist() == train.labels[list(_numbers)].tolist()
for _value in (
    0.0,
    1.0,
    -1.0,
    -100.0,
    99.0,
    -999.0,
    -9999.0,
    1e6,
    -1e9,
    torch.finfo(torch.float32).min,
):
    _steps = torch.full((9, 2), _value)
    _x, _lengths, _mask, _labels = collate(
        [(_steps[:4], 3), (_steps[:9], 0), (_steps[:1], 5)]
    )
    assert _lengths.tolist() == [4, 9, 1]
    assert torch.equal(_mask, torch.arange(9) < torch.tensor([[4], [9], [1]]))
    assert torch.equal(_x, torch.where(_mask[..., None], _value, 0.0).expand(3, 9, 2))
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "Is it made from values?"</summary>
#
# A real step may be zero. The lengths alone say where a sequence ends: compare the numbers of the steps with them.
# </details>
#
# The package's `pad` returns a `Padded` with `x`, `lengths`, `mask`, and with `pack()`. **Packing** (패킹) hands the real steps alone to a
# recurrent network. What happens without it? Train this model on padded sequences as they are:


# %%
class Speaker(nn.Module):
    """Who speaks: a GRU in both directions over the steps,
    and a layer on its two last states.
    """

    def __init__(self, packed):
        super().__init__()
        self.packed = packed
        self.gru, self.head = (
            nn.GRU(12, 32, batch_first=True, bidirectional=True),
            nn.Linear(64, 9),
        )

    def forward(self, batch):
        _, last = self.gru(batch.pack() if self.packed else batch.x)
        return self.head(last.transpose(0, 1).flatten(1))


def trained(packed, epochs=8):
    torch.manual_seed(0)
    model = Speaker(packed)
    trainer = Trainer(
        model,
        torch.optim.Adam(model.parameters(), 0.005),
        nn.CrossEntropyLoss(),
        progress=False,
    )
    trainer.fit(
        DataLoader(
            train, batch_sampler=BucketBatches(train.lengths, 32), collate_fn=pad
        ),
        epochs,
    )
    return model.eval()


# %%
predict(
    "06-1.company",
    "The test recordings go through the network without packing: in one batch of "
    "370, and then one at a time. How many answers differ?",
    ["none: a sample is a sample", "a handful: rounding", "dozens"],
)


# %%
@torch.no_grad()
def answers(model, batch_size):
    where = model.head.weight.device
    loader = DataLoader(test, batch_size, collate_fn=pad)
    return torch.cat([model(batch.to(where)).argmax(1).cpu() for batch, _ in loader])


differ = {}
for packed in (False, True):
    model = trained(packed)
    together, alone = answers(model, len(test)), answers(model, 1)
    right = [
        f"{100 * (given == test.labels).float().mean():.1f}%"
        for given in (together, alone)
    ]
    differ[packed] = int((together != alone).sum())
    print(
        f"packed: {packed!s:5}  in one batch {right[0]}, one at a time {right[1]}, "
        f"answers that differ: {differ[packed]}"
    )
outcome(
    "06-1.company",
    f"{differ[False]} of {len(test)} without packing, {differ[True]} with it.",
    right="dozens"
    if differ[False] > 12
    else "a handful: rounding"
    if differ[False]
    else "none: a sample is a sample",
)

# %% [markdown]
# Without packing, the network goes on over the zeros and forgets. How far depends on the *company*: on the longest of the batch. So the same recording gets
# a different answer in another batch, and no error is raised. A mean over time has the same trap: divide by the length, and not by T. Attention needs the
# mask. A test that finds all of these: **one sample alone must get the answer that it gets in a batch.**
#
# ## 2 · Buckets
#
# Padding is computed, too. How much of it there is depends on who meets whom.

# %%
predict(
    "06-1.padding",
    "Recordings of 7 to 26 frames, in mixed batches of 32. Which share of all steps "
    "is padding?",
    ["about 5%", "about 35%", "about 70%"],
)

# %%
shuffled = padding_share(train.lengths, BucketBatches(train.lengths, 32, pool=1))
choice = min((5, 35, 70), key=lambda percent: abs(percent - 100 * shuffled))
outcome("06-1.padding", f"{shuffled:.1%} of the steps.", right=f"about {choice}%")

# %% [markdown]
# So let sequences of similar length meet (**length buckets**, 길이 버킷). Sorting all of them would do it, but then each epoch has the same batches. The
# way between: mix all, cut into *pools* of some batches, sort each pool, cut it into batches, and mix the batches. Move the slider.

# %%
figures.explorer(
    functools.partial(collate_picture.draw_padding, train.lengths),
    alt=functools.partial(collate_picture.padding_finding, train.lengths),
    pool=(1, 9, 1),
    batch_size=[32, 16, 8, 64],
)

# %% [markdown]
# ### Exercise 2 · Bucket batches
#
# ●●○ · 12 minutes · good for: every model of sequences; a third of its work may be padding.


# %% exercise: bucket_batches
def bucket_batches(
    lengths: list[int], batch_size: int, pool: int, generator: torch.Generator
) -> list[list[int]]:
    """Return an epoch's batches: samples of similar length together, `pool` batches
    sorted at a time.

    Each sample comes once. All chance comes from the generator, as in
    `torch.randperm(n, generator=generator)`.
    """
    ### BEGIN SOLUTION
    found = []
    for part in torch.randperm(len(lengths), generator=generator).split(
        batch_size * pool
    ):
        ordered = sorted(part.tolist(), key=lambda number: lengths[number])
        found += [
            ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)
        ]
    return [
        found[number]
        for number in torch.randperm(len(found), generator=generator).tolist()
    ]
    ### END SOLUTION


# %% check: bucket_batches
checked = check.bucket_batches(bucket_batches, points=3)
### BEGIN HIDDEN TESTS
_lengths = vowels("test").lengths.tolist()
for _size, _pool in ((10, 9), (16, 5)):
    _epochs = [
        [
            [int(n) for n in batch]
            for batch in bucket_batches(
                _lengths, _size, _pool, torch.Generator().manual_seed(s)
            )
        ]
        for s in (50, 51, 50)
    ]
    assert _epochs[0] == _epochs[2] != _epochs[1]
    for _epoch in _epochs:
        assert sorted(n for batch in _epoch for n in batch) == list(
            range(len(_lengths))
        )
        assert max(map(len, _epoch)) == _size
    _mixed = padding_share(_lengths, BucketBatches(_lengths, _size, pool=1))
    assert padding_share(_lengths, _epochs[0]) < 0.6 * _mixed
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "from short to long, again and again"</summary>
#
# Within a pool the batches come out sorted. Which order do they have to get before you return them?
# </details>
#
# <details><summary>Help – I get "the whole dataset is one pool"</summary>
#
# You sort everything. The random order has to be cut *before* the sorting.
# </details>
#
# ## 3 · Classes of different sizes
#
# 400 fours and 20 nines (**class imbalance**, 클래스 불균형), and the task is to tell them apart. Two remedies are common. A **weighted sampler**
# (가중 샘플러) draws the rare ones more often. **Loss weights** (손실 가중치) let them count for more.


# %%
def fours_and_nines(split):
    images, digit = mnist(split).tensors
    chosen = (digit == 4) | (digit == 9)
    return images[chosen], (digit[chosen] == 9).long()


images, is_nine = fours_and_nines("train")
kept = torch.cat(
    [(is_nine == 0).nonzero()[:400], (is_nine == 1).nonzero()[:20]]
).flatten()
images, is_nine = images[kept], is_nine[kept]
test_images, test_nine = fours_and_nines("test")
weights = class_weights(is_nine)
print(
    f"{is_nine.bincount().tolist()} samples, class weights "
    f"{[round(w, 3) for w in weights.tolist()]}; test {test_nine.bincount().tolist()}"
)

# %%
predict(
    "06-1.sampler",
    "420 draws with replacement, both classes equally likely. How many *different* "
    "fours of the 400 come in one epoch?",
    ["all 400", "about 210: half of the draws", "about 160"],
)

# %%
drawn = torch.tensor(list(WeightedSamples(balanced(is_nine))))
fours, nines = (drawn[is_nine[drawn] == kind] for kind in (0, 1))
outcome(
    "06-1.sampler",
    f"{len(fours)} draws, and {len(fours.unique())} different fours: some come "
    f"twice. Each nine comes {len(nines) / 20:.1f} times.",
    right="about 160",
)

# %% [markdown]
# Both remedies aim at the same: the mean over both classes, each counting half. So compare the gradients of single batches with the gradient of that
# aim. PyTorch's `cross_entropy(weight=…)` divides by the *weights in the batch*. As a third way, weigh the losses and take the plain mean.

# %%
torch.manual_seed(0)
model = mlp(784, 32, 2)


def gradient(batch, loss):
    found = torch.autograd.grad(
        loss(model(images[batch]), is_nine[batch]), model.parameters()
    )
    return torch.cat([part.flatten() for part in found])


def plain_mean(outputs, targets):
    return (
        F.cross_entropy(outputs, targets, reduction="none") * weights[targets]
    ).mean()


# %%
weighted = functools.partial(F.cross_entropy, weight=weights)
aim = gradient(torch.arange(420), weighted)
drawn = torch.tensor(list(WeightedSamples(balanced(is_nine), samples=32 * 300))).split(
    32
)
mixed = [torch.randperm(420)[:32] for _ in range(300)]
ways = {
    "as it is": (mixed, F.cross_entropy),
    "sampler": (drawn, F.cross_entropy),
    "weight=": (mixed, weighted),
    "weights, plain mean": (mixed, plain_mean),
}
for name, (all_batches, loss) in ways.items():
    found = torch.stack([gradient(batch, loss) for batch in all_batches]) / aim.norm()
    off, single = (
        (found.mean(0) - aim / aim.norm()).norm(),
        (found - aim / aim.norm()).norm(dim=1).mean(),
    )
    print(
        f"{name:20} mean of 300 batches off by {off:.2f}, single batches by "
        f"{single:.2f} (aim has length 1)"
    )
print(
    f"batches without any nine: "
    f"{sum(not is_nine[batch].any() for batch in mixed) / 300:.0%}"
)

# %% [markdown]
# The sampler's batches are near the aim on average. One by one they are still far off, but less than half as far as with weights. With `weight=` even the average is off: a batch without a nine is divided by small weights,
# so its fours count in full. The plain mean puts the average right; single batches stay noisy, since some have no nine and others have three.
# (On several ranks the division by a rank's own weights does harm once more: lesson 01, exercise on uneven parts.)
#
# And in training? Twenty epochs, three seeds:


# %%
def chances_of_nine(way, seed, epochs=20):
    """Return the probability of a nine for each test image
    after each epoch, [epochs, images].
    """
    torch.manual_seed(seed)
    model, sampler = mlp(784, 32, 2), WeightedSamples(balanced(is_nine), seed=seed)
    optimizer, chances = torch.optim.SGD(model.parameters(), 0.02), []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order = torch.tensor(list(sampler)) if way == "sampler" else torch.randperm(420)
        for batch in order.split(32):
            optimizer.zero_grad()
            (plain_mean if way == "loss weights" else F.cross_entropy)(
                model(images[batch]), is_nine[batch]
            ).backward()
            optimizer.step()
        with torch.no_grad():
            chances.append(model(test_images).softmax(1)[:, 1])
    return torch.stack(chances)


# [seeds, epochs, images]
chances = {
    way: torch.stack([chances_of_nine(way, seed) for seed in range(3)])
    for way in ("as it is", "sampler", "loss weights")
}
curves = {
    way: 100 * (chance[..., test_nine == 1] > 0.5).float().mean(-1)
    for way, chance in chances.items()
}

# %%
figure, axis = figures.new(6.5, 3)
for name, curve in curves.items():
    (line,) = axis.plot(range(1, 21), curve.mean(0), label=name)
    axis.fill_between(
        range(1, 21), curve.amin(0), curve.amax(0), color=line.get_color(), alpha=0.2
    )
early, late = (
    {name: curve[:, at].mean().item() for name, curve in curves.items()}
    for at in (4, 19)
)
found = "Nines found after 5 and 20 epochs: " + ", ".join(
    f"{n} {early[n]:.0f} and {late[n]:.0f}%" for n in curves
)
axis.set(xlabel="epoch", ylabel="nines found, % (3 seeds)", ylim=(0, 100), title=found)
axis.set_xticks(range(1, 21, 2))
axis.legend(loc="lower right")
figures.show(
    figure,
    f"Share of the test's nines that are found, over the epochs, for three ways. "
    f"{found}.",
)

# %% [markdown]
# How they differ:
#
# | | weighted sampler | loss weights |
# |---|---|---|
# | an epoch | leaves out most of the common samples, repeats the rare ones | each sample once |
# | a batch | both classes in nearly each | often no rare sample; noisy |
# | rare samples | many copies: with augmentation, many versions | one copy that counts much |
# | needs | a sampler that knows ranks and epochs | a line in the loss |
#
# Early on both help. The longer a network trains, the smaller the difference: once the training set is fitted, weights change little
# ([Byrd and Lipton 2019](https://arxiv.org/abs/1812.03372)). And twenty nines stay twenty nines.
#
# A third remedy trains nothing again: move the **threshold** (임계값), the probability from which you answer "nine". Judge all of them as they would serve, where one image in
# 21 is a nine. **Recall** (재현율) is the share of nines that are found; **precision** (정밀도), the share of the answers "nine" that are right.

# %%
share = 20 / 420
print(f"always answering four: {1 - share:.1%} accuracy, and no nine is found\n")


def in_service(kind_of_answer):
    """A mean over the test images, with nines as rare as in service."""
    four, nine = (kind_of_answer[:, test_nine == kind].mean().item() for kind in (0, 1))
    return (1 - share) * four + share * nine


for epochs, (way, chance) in itertools.product((5, 20), chances.items()):
    at = chance[:, epochs - 1]
    line = f"{epochs:2d} epochs, {way:12s} says {in_service(at):5.1%} nines;"
    for threshold in (0.5, share):
        yes = (at > threshold).float()
        found = yes[:, test_nine == 1].mean().item()
        precision = share * found / max(in_service(yes), 1e-9)
        line += (
            f"  from {threshold:.2f}: recall {found:4.0%}, precision {precision:4.0%}"
        )
    print(line)

# %% [markdown]
# After 20 epochs the network that was trained *as it is* finds as many nines as the others, once its threshold lies at 4.8%, the share of the nines. So 0.5 is a choice, made for
# classes of equal size. Choose it on validation data, by what a missed nine costs against a false one.
#
# And look at what each network *says*: how many nines there are. After five epochs both remedies say about twice as many as there are, since they were shown a world with as many
# nines as fours. Their probabilities are not **calibrated** (보정된): right for an answer, wrong where somebody computes with them. A count of right answers cannot show this.
#
# ## 4 · Break-it lab: a result that is too good
#
# A colleague wants to know the speaker from *one* frame. They take all frames of the 270 recordings, mix them, keep a fifth for testing, and take the nearest
# training frame's speaker (nearest neighbor, 최근접 이웃).

# %%
speaker_of = train.labels.repeat_interleave(train.lengths)
recording_of = torch.arange(len(train)).repeat_interleave(train.lengths)


def nearest(steps, speakers, known, asked, answers):
    """The share of right answers for `asked`, when each gets the speaker of the
    nearest of the known steps.
    """
    return (
        (speakers[known][torch.cdist(asked, steps[known]).argmin(1)] == answers)
        .float()
        .mean()
        .item()
    )


mixed = torch.randperm(len(train.steps), generator=torch.Generator().manual_seed(0))
kept_out, known = mixed[: len(mixed) // 5], mixed[len(mixed) // 5 :]
claimed = nearest(
    train.steps, speaker_of, known, train.steps[kept_out], speaker_of[kept_out]
)
print(f"{len(kept_out)} frames kept out: {claimed:.1%} right")

# %%
predict(
    "06-1.leak",
    "The same speakers were recorded on other occasions: the 370 test recordings. "
    "How many of their frames are answered correctly?",
    ["about as many", "about 90%", "about half"],
)

# %%
other_occasion = test.labels.repeat_interleave(test.lengths)
truth = nearest(train.steps, speaker_of, known, test.steps, other_occasion)
outcome(
    "06-1.leak",
    f"{truth:.1%}, where {claimed:.1%} was claimed: "
    f"{(1 - truth) / (1 - claimed):.0f} times as many mistakes.",
    right="about 90%" if truth < 0.95 else "about as many",
)

# %% [markdown]
# Nothing crashed, no frame is in both parts, and the number is wrong. What did the test frames have in the training part?
#
# ### Exercise 3 · Find the leak
#
# ●●○ · 10 minutes · good for: every number that you are proud of.
#
# A test sample **leaks** (누수) when the training part knows it. There are three ways. The sample itself is in the training part. Or its content is, under a different index (a copy, saved again). Or another sample of its
# **group** (그룹) is: the same writer, patient or recording. Samples may differ in shape.


# %% exercise: find_leaks
def find_leaks(
    samples: list[torch.Tensor], groups: list, train: list[int], test: list[int]
) -> set[int]:
    """Return the numbers in `test` that leak."""
    ### BEGIN SOLUTION
    contents = [(sample.shape, sample.numpy().tobytes()) for sample in samples]
    trained = {contents[number] for number in train}
    trained_groups = {groups[number] for number in train}
    return {
        number
        for number in test
        if number in train
        or groups[number] in trained_groups
        or contents[number] in trained
    }
    ### END SOLUTION


# %% check: find_leaks
checked = check.find_leaks(find_leaks, points=2)
### BEGIN HIDDEN TESTS
_generator = torch.Generator().manual_seed(6)
_samples = [torch.randint(0, 9, (3, 3), generator=_generator) for _ in range(40)]
_samples[30], _samples[31] = _samples[2].clone(), _samples[33].clone()
_samples[35] = _samples[4].clone()
_samples[35][-1, -1] += 1
_groups = [f"patient {n // 3}" for n in range(40)]
for _seed in range(4):
    _order = torch.randperm(40, generator=torch.Generator().manual_seed(_seed)).tolist()
    _train, _test = _order[:15], [*_order[25:], _order[0]]
    _right = {
        t
        for t in _test
        if any(
            t == n or t // 3 == n // 3 or torch.equal(_samples[t], _samples[n])
            for n in _train
        )
    }
    assert set(find_leaks(_samples, _groups, _train, _test)) == _right
### END HIDDEN TESTS
checked

# %% [markdown]
# <details><summary>Help – I get "has a different number and a different writer"</summary>
#
# Then only the content tells. `torch.equal(a, b)` compares two tensors; `(a.shape, a.numpy().tobytes())` can be put into a set.
# </details>
#
# The package's `leaks` on the colleague's split, and the repair: split by recording.

# %%
found = leaks(train.steps, recording_of.tolist(), known.tolist(), kept_out.tolist())
print(
    f"{len(found)} of {len(kept_out)} test frames leak: {dict(Counter(found.values()))}"
)
parts = [
    torch.tensor(part) for part in split_by_group(recording_of.tolist(), 0.2, seed=0)
]
assert not leaks(
    train.steps, recording_of.tolist(), parts[0].tolist(), parts[1].tolist()
)
honest = nearest(
    train.steps, speaker_of, parts[0], train.steps[parts[1]], speaker_of[parts[1]]
)
print(
    f"mixed frames {claimed:.1%}, split by recording {honest:.1%}, other occasions "
    f"{truth:.1%}"
)

# %% [markdown]
# A frame looks like the frame 6.4 ms before. Mixed, that frame is nearly always in the training part, and the test asks only whether the *recording* is there. Ask
# what the model will meet later (new recordings? new speakers? another room?) and let that be the group.
#
# ## 5 · Scale up: buckets on ranks
#
# On N ranks each takes every N-th sample of a batch. So all ranks take the same number of steps, their sequences are of similar length, and no rank waits for
# one that got the long ones. Same batches, same weights:


# %%
def train_speakers(epochs=3):
    torch.manual_seed(0)
    model, data = Speaker(packed=True), vowels()
    loader = DataLoader(
        data, batch_sampler=BucketBatches(data.lengths, 32, pool=4), collate_fn=pad
    )
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.3),
        nn.CrossEntropyLoss(),
        progress=False,
    )
    history = trainer.fit(loader, epochs)
    return history, torch.cat(
        [p.detach().cpu().flatten() for p in trainer.model.parameters()]
    )


((history, alone),) = run_ranks(train_speakers, world_size=1)
(_, together), *_ = run_ranks(train_speakers, world_size=2)
difference = (alone - together).abs().max().item()
assert difference < 1e-3
print(
    f"1 process and 2 ranks: the weights differ by {difference:.0e} at most after 3 "
    f"epochs"
)

# %% [markdown]
# The same function as a script, for `torchrun` on one machine or on several (with GPUs, each process takes one):

# %%
export_script(train_speakers, "train_speakers.py", overwrite=True)

# %% [markdown]
# ## Take away
#
# * One sample alone must get the answer that it gets in a batch. Pack, mask, and divide by lengths.
# * Buckets: mix, cut, sort, cut, mix. Little padding, and still chance.
# * Sampler or loss weights: the same goal, different noise. Neither adds rare samples, and both shift the probabilities, at first most. A threshold needs no training.
# * Split by what the model will meet later.
#
# **Next notebook:** [loading at scale](3_loading_at_scale.ipynb). **Questions on this lesson:** [quiz](quiz.ipynb).
#
# ### Glossary
#
# | English | 한국어 | here |
# |---|---|---|
# | padding | 패딩 | filled up to the longest |
# | mask | 마스크 | True where a step is real |
# | packing | 패킹 | the real steps alone |
# | length bucket | 길이 버킷 | similar lengths in one batch |
# | class imbalance | 클래스 불균형 | one class is rare |
# | threshold | 임계값 | the probability from which the answer is yes |
# | precision | 정밀도 | the share of the answers "yes" that are right |
# | calibrated | 보정된 | probabilities that agree with how often it happens |
# | leak | 누수 | the training part knows the test |
# | group | 그룹 | samples that belong together |
#
# ### Further reading
#
# * PyTorch, [pack_padded_sequence](https://docs.pytorch.org/docs/stable/generated/torch.nn.utils.rnn.pack_padded_sequence.html).
# * Byrd and Lipton 2019, [What is the effect of importance weighting in deep learning?](https://arxiv.org/abs/1812.03372)
# * Kapoor and Narayanan 2023, [Leakage and the reproducibility crisis in machine-learning-based science](https://doi.org/10.1016/j.patter.2023.100804).
