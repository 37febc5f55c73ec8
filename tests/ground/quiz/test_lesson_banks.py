"""The banks: every promise of a lesson asked about, every kind in use; the keys of lessons 00 and 01 computed again."""

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, DistributedSampler

from torchcourse.lessons.data_parallelism import cost
from torchcourse.quiz import bank, choice_order
from torchcourse.quiz.answers import KINDS
from torchcourse.quiz.questions import NumberQuestion, OpenQuestion, Question, Text, TextQuestion, versions
from torchcourse.quiz.verdict import judge
from torchcourse.ranks import run_ranks

ROOT = Path(__file__).parents[3]
LESSONS = bank.lessons()


def key(lesson: str, question: str) -> Any:
    return choice_order.in_file_order(bank.lesson(lesson).question(question)[1]).key


def words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text).casefold().strip()


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_bank_has_ten_questions_of_every_kind(lesson):
    questions = bank.lesson(lesson).questions
    assert len(questions) >= 10
    assert {question.kind for question in questions} == set(KINDS)


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_objective_is_asked_about(lesson):
    found = bank.lesson(lesson)
    sources = [question.source for question in found.questions if question.source]
    assert {source.objective for source in sources} - {None} == set(found.objectives)


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_objective_stands_in_the_lesson(lesson):
    prose = words("\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "solutions" / lesson).glob("*.py")))
    for objective in bank.lesson(lesson).objectives.values():
        assert words(objective.en) in prose, f"no notebook promises: {objective.en}"


def questions_and_variants(lesson: str) -> list[Question]:
    return [version for first in bank.lesson(lesson).questions for version in versions(first)]


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_key_is_right(lesson):
    for question in questions_and_variants(lesson):
        if not isinstance(question, OpenQuestion):
            assert question.key is not None, question.id
            for right in question.key if isinstance(question.key, list) else [question.key]:
                assert judge(question, right).right, question.id


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_mistake_is_that_mistake(lesson):
    expected: list[tuple[Question, str | float, Text]] = []
    for question in questions_and_variants(lesson):
        if isinstance(question, NumberQuestion):
            expected += [(question, mistake.answer, mistake.why) for mistake in question.mistakes]
        elif isinstance(question, TextQuestion):
            expected += [(question, wrong, mistake.why) for mistake in question.mistakes for wrong in mistake.answers]
    assert expected
    for question, wrong, why in expected:
        verdict = judge(question, wrong)
        assert verdict.right is False, question.id
        assert [remark.why for remark in verdict.remarks] == [why], f"{question.id}: {wrong}"


def sampler(samples: int, ranks: int, rank: int, **named: bool) -> DistributedSampler:
    # At runtime anything with a length will do.
    return DistributedSampler(cast(Dataset[int], range(samples)), ranks, rank, **named)


def turns(samples: int, ranks: int) -> list[int]:
    return [len(sampler(samples, ranks, rank)) for rank in range(ranks)]


def test_the_sampler_agrees_with_the_keys():
    assert turns(103, 4) == [key("00_start_here", "samples-of-a-rank")] * 4
    assert sum(turns(17, 8)) - 17 == key("00_start_here", "samples-used-twice")
    assert sum(turns(1001, 8)) == 1008  # "seven are counted twice"
    assert len(sampler(1001, 8, 0, drop_last=True)) == 125  # "one image is never seen"


def test_the_sampler_repeats_an_order_that_was_not_told_the_epoch():
    shuffled = sampler(50, 2, 0, shuffle=True)
    assert key("01_data_parallelism", "forgotten-set-epoch") == "B"
    first = list(shuffled)
    assert list(shuffled) == first
    shuffled.set_epoch(1)
    assert list(shuffled) != first


@pytest.mark.parametrize(
    ("letter", "share"),
    [
        ("A", lambda indices, rank, n: indices[rank::n]),
        ("B", lambda indices, rank, n: indices[rank * 2 : rank * 2 + 2]),
        ("C", lambda indices, rank, n: [indices[i] for i in sampler(len(indices), n, rank, shuffle=False)]),
        ("D", lambda indices, rank, n: torch.tensor(indices).tensor_split(n)[rank].tolist()),
        ("E", lambda indices, rank, n: indices[rank::2]),
    ],
)
def test_which_shares_use_each_sample_once(letter, share):
    indices = list(range(20, 30))
    given = sorted(index for rank in range(4) for index in share(indices, rank, 4))
    assert (given == indices) == (letter in key("00_start_here", "each-exactly-once"))


def test_the_accuracy_of_the_question_is_its_key():
    text = bank.lesson("00_start_here").question("accuracy-of-four")[1].text.en
    program = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert program is not None
    numbers: dict[str, Any] = {}
    exec(program[1], numbers)
    logits, labels = torch.tensor(numbers["logits"]), torch.tensor(numbers["labels"])
    assert (logits.argmax(dim=1) == labels).float().mean() == key("00_start_here", "accuracy-of-four")


def test_a_list_of_one_rank_stays_in_it():
    seen = []

    def count():
        seen.append(dist.get_rank())
        dist.barrier()
        return len(seen)

    assert key("00_start_here", "a-variable-of-rank-0") == "A"
    assert run_ranks(count, world_size=2) == [1, 1]


def test_backward_adds():
    weight = nn.Parameter(torch.zeros(1))
    for _ in range(2):
        (0.5 * weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.item() == key("00_start_here", "gradient-after-two-backwards")


def test_formulas_agree_with_the_keys():
    lesson = "01_data_parallelism"
    assert cost.ring_bytes(100, 4) == pytest.approx(key(lesson, "bytes-of-a-ring"))
    assert cost.ring_bytes(400, 8) == pytest.approx(key(lesson, "ring-of-eight"))
    assert cost.amdahl_speedup(4, 0.1) == pytest.approx(key(lesson, "amdahl-on-four-ranks"), abs=1e-3)
    assert cost.amdahl_speedup(10**9, 0.05) == pytest.approx(key(lesson, "amdahl-limit"), abs=1e-3)
    assert key(lesson, "uneven-parts") == (3 * 1.0 + 1 * 5.0) / 4
    assert pytest.approx(key(lesson, "one-weight-after-a-step")) == 1.0 - 0.1 * (0.2 + 0.6) / 2
    assert key(lesson, "hundred-small-messages") == 50 + 1000 * 1
    assert cost.ring_seconds(8000, 4, alpha=50, beta=1) == pytest.approx(key(lesson, "all-reduce-by-alpha-and-beta"))


def test_what_a_rank_has_to_itself():
    def threads_and_running_mean():
        norm = nn.BatchNorm1d(1)
        ddp = DistributedDataParallel(norm)
        for _ in range(2):
            ddp(torch.full((4, 1), float(dist.get_rank()))).sum().backward()
        assert norm.running_mean is not None
        return torch.get_num_threads(), norm.running_mean.item()

    lesson = "01_data_parallelism"
    (threads, of_rank_0), _ = run_ranks(threads_and_running_mean, world_size=2, env={"CUDA_VISIBLE_DEVICES": ""})
    assert (threads, of_rank_0) == (1, 0)  # rank 1's ones are nowhere in it
    assert (key(lesson, "one-rank-is-slower"), key(lesson, "whose-running-statistics")) == ("A", "C")
    assert key(lesson, "efficiency-on-sixteen-ranks") == 100 * 80 / 100


def test_shapes_that_differ_pass_in_silence():
    def mismatched():
        gradient = torch.arange(24.0).reshape(4, 6)
        if dist.get_rank() == 1:
            gradient = gradient.T.contiguous()
        dist.all_reduce(gradient)
        return gradient.tolist()

    right = (2 * torch.arange(24.0).reshape(4, 6)).tolist()
    assert key("01_data_parallelism", "shapes-that-differ") == "B"
    ours, theirs = run_ranks(mismatched, world_size=2)
    assert ours != right
    assert theirs != torch.tensor(right).T.tolist()


def test_keys_of_fsdp_and_of_joining_follow_from_their_sizes():
    lesson = "01_data_parallelism"
    unit = sum(parameter.numel() for parameter in nn.Linear(7, 10).parameters())
    assert key(lesson, "numbers-in-a-flat-shard") == -(-unit // 3)
    assert key(lesson, "megabytes-of-an-fsdp-step") == 1.5 * cost.ring_bytes(600, 4)
    assert key(lesson, "norm-over-four-shards") == torch.tensor([1.0, 2.0, 2.0, 4.0]).norm()
    assert key(lesson, "first-number-on-rank-2") == 2 * -(-10 // 4)
    assert key(lesson, "last-step-under-join") == (3 + 0) / 2
    fused = torch.arange(96).chunk(2)[0]
    assert key("02_model_parallelism", "values-on-rank-0") == (fused >= 64).sum()
    assert key("02_model_parallelism", "percent-for-recomputing") == pytest.approx(100 * (4 / 3 - 1), abs=0.1)
