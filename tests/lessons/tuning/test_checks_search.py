"""The checks of notebook 1 of lesson 03 accept right answers built in different ways and name wrong ones' symptoms."""

import contextlib
import copy
import heapq
import math
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from torchcourse.error_bars import t95
from torchcourse.lessons.tuning import halving
from torchcourse.lessons.tuning.checks import search as check
from verdicts import accepted, refused, todo


@pytest.mark.parametrize("name", ["range_test", "random_search", "promotion", "report", "share_found"])
def test_a_stub_is_not_done_yet(name):
    assert getattr(check, name)(todo).state == "not done"


# range_test


def sweep(
    space=np.geomspace,
    restore=True,
    zero=True,
    after=False,
    setting=True,
    step=True,
    tensors=False,
    skip=0,
    high=1.0,
    momentum=0.0,
    training=True,
):
    def learner(model, batches, low, upper):
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=low, momentum=momentum)
        rates, losses = space(low, upper * high, len(batches)).tolist(), []
        model.train(training)
        for rate, (x, y) in zip(rates, batches, strict=True):
            if setting:
                optimizer.param_groups[0]["lr"] = rate
            loss = F.cross_entropy(model(x), y)
            if zero:
                optimizer.zero_grad()
            loss.backward()
            if step:
                optimizer.step()
            kept = F.cross_entropy(model(x), y) if after else loss
            losses.append(kept if tensors else kept.item())
        if restore:
            model.load_state_dict(before)
        model.train()
        return rates[skip:], losses[skip:]

    return learner


def sweep_by_hand(model, batches, low, high):
    twin = copy.deepcopy(model)
    factor, rate, rates, losses = (high / low) ** (1 / (len(batches) - 1)), low, [], []
    for x, y in batches:
        loss = F.cross_entropy(twin(x), y)
        gradients = torch.autograd.grad(loss, tuple(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= rate * gradient
        rates.append(rate)
        losses.append(loss.item())
        rate *= factor
    return np.array(rates), np.array(losses)


def rate_set_late(model, batches, low, high):
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=low)
    rates, losses = np.geomspace(low, high, len(batches)).tolist(), []
    for rate, (x, y) in zip(rates, batches, strict=True):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = rate
        losses.append(loss.item())
    model.load_state_dict(before)
    return rates, losses


def weights_only(model, batches, low, high):
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    result = sweep(restore=False)(model, batches, low, high)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), kept, strict=True):
            parameter.copy_(value)
    return result


def ends_where_it_jumps(*given):
    rates, losses = sweep()(*given)
    end = next((n for n, loss in enumerate(losses, 1) if loss > 4 * min(losses[:n])), len(losses))
    return rates[:end], losses[:end]


def takes_them_off(model, batches, low, high):
    result = sweep()(model, batches, low, high)
    batches.clear()
    return result


def as_a_list(*given):
    return list(sweep()(*given))


@pytest.mark.parametrize("learner", [sweep(), sweep_by_hand, as_a_list])
def test_range_test_accepts(learner):
    accepted(check.range_test(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (sweep(space=np.linspace), "linear"),
        (sweep(restore=False), "weights"),
        (weights_only, "buffers"),
        (sweep(zero=False), "gradients"),
        (sweep(after=True), "after"),
        (sweep(setting=False), "rate_not_set"),
        (sweep(step=False), "no_step"),
        (sweep(tensors=True), "tensors"),
        (sweep(skip=1), "count"),
        (ends_where_it_jumps, "count"),
        (takes_them_off, "inputs_changed"),
        (lambda model, batches, *rates: (sweep()(model, batches, *rates), batches[0][0].zero_())[0], "inputs_changed"),
        (sweep(high=0.5), "rates"),
        (rate_set_late, "rate_set_late"),
        (lambda model, *given: (sweep()(model, *given), model.eval())[0], "mode_left_changed"),
        (lambda *arguments: sweep()(*arguments)[1], "wrong_type"),
        (lambda *arguments: sweep()(*arguments)[::-1], "swapped"),
        (sweep(momentum=0.9), "momentum"),
        (
            lambda *given: (lambda rates, losses: (rates, [16 * loss for loss in losses]))(*sweep()(*given)),
            "wrong_value",
        ),
        (lambda model, *given: (sweep()(model, *given), model.requires_grad_(False))[0], "frozen"),
        (sweep(training=False), "evaluation"),
        (lambda *arguments: (sweep()(*arguments)[0], [2 * loss for loss in sweep()(*arguments)[1]]), "wrong_value"),
    ],
)
def test_range_test_refuses(learner, symptom):
    refused(check.range_test(learner), symptom)


def test_only_a_loss_that_has_a_graph_is_said_to_keep_it():
    def detached(*given):
        rates, losses = sweep(tensors=True)(*given)
        return rates, [loss.detach() for loss in losses]

    graphs, numbers = (check.range_test(learner).message for learner in (sweep(tensors=True), detached))
    assert "keeps its graph" in graphs
    assert "are tensors. Keep" in numbers


# random_search


def searching(
    draw=lambda low, high, dice: 10 ** dice.uniform(math.log10(low), math.log10(high)),
    widths=(4, 8, 16, 32, 64),
    best=max,
    more=0,
    tied=False,
    high=1.0,
    result=lambda setting: setting,
):
    def learner(objective, trials, generator):
        tried = []
        for _ in range(trials + more):
            rate = draw(1e-4, high, generator)
            decay = rate**1.25 / 10 if tied else draw(1e-6, 1e-1, generator)
            setting = {"lr": rate, "weight_decay": decay, "width": int(generator.choice(widths))}
            tried.append((objective(setting), setting))
        return result(best(tried, key=lambda pair: pair[0])[1])

    return learner


def all_at_once(objective, trials, generator):
    rates = np.exp(generator.uniform(np.log(1e-4), 0, trials))
    decays = np.exp(generator.uniform(np.log(1e-6), np.log(0.1), trials))
    widths = 2 ** generator.integers(2, 7, trials)
    best, value = None, -math.inf
    for rate, decay, width in zip(rates, decays, widths, strict=True):
        setting = {"width": int(width), "lr": float(rate), "weight_decay": float(decay)}
        if (found := objective(setting)) > value:
            best, value = setting, found
    return best


def test_wrong_losses_are_said_with_the_right_ones():
    def sums(*given):
        rates, losses = sweep()(*given)
        return rates, [16 * loss for loss in losses]

    assert re.search(r"begin 17\.579, .* begin 1\.099, ", check.range_test(sums).message)


@pytest.mark.parametrize("learner", [searching(), all_at_once])
def test_random_search_accepts(learner):
    accepted(check.random_search(learner))


def unseeded(low, high, dice):
    return 10 ** random.uniform(math.log10(low), math.log10(high))


def width_from_another_stream(objective, trials, generator):
    return searching(widths=[4, 8, 16, 32, 64])(
        lambda setting: objective(setting | {"width": random.choice((4, 8, 16, 32, 64))}), trials, generator
    )


def rates_on_a_grid(objective, trials, generator):
    tried = [{"lr": rate, "weight_decay": 10 ** generator.uniform(-6, -1)} for rate in np.geomspace(1e-4, 1, trials)]
    for setting in tried:
        setting["width"] = int(generator.choice((4, 8, 16, 32, 64)))
    return max(tried, key=objective)


def width_of_the_rate(objective, trials, generator):
    def tie(setting):
        return setting | {"width": 2 ** min(6, max(2, 6 + int(math.log10(setting["lr"]) * 1.25)))}

    return tie(searching()(lambda setting: objective(tie(setting)), trials, generator))


def one_dictionary(objective, trials, generator):
    best, value, setting = None, -math.inf, {}
    for _ in range(trials):
        setting["lr"], setting["weight_decay"] = 10 ** generator.uniform(-4, 0), 10 ** generator.uniform(-6, -1)
        setting["width"] = int(generator.choice((4, 8, 16, 32, 64)))
        if (found := objective(setting)) > value:
            best, value = setting, found
    return best


def better_than_zero(objective, trials, generator):
    best, value = None, 0
    for _ in range(trials):
        setting = {"lr": 10 ** generator.uniform(-4, 0), "weight_decay": 10 ** generator.uniform(-6, -1)}
        setting["width"] = int(generator.choice((4, 8, 16, 32, 64)))
        if (found := objective(setting)) > value:
            best, value = setting, found
    return best


def with_rates_of_zero(objective, trials, generator):
    def rounded(setting):
        return setting | {"lr": round(setting["lr"], 3)}

    return rounded(searching()(lambda setting: objective(rounded(setting)), trials, generator))


def the_best_or_good_enough(objective, trials, generator):
    tried = []

    def noted(setting):
        tried.append((objective(setting), setting))
        if tried[-1][0] > 0.99:
            raise StopIteration
        return tried[-1][0]

    with contextlib.suppress(StopIteration):
        searching()(noted, trials, generator)
    return max(tried, key=lambda pair: pair[0])[1]


class BestOfAll:
    """Keeps the best setting from one search to the next."""

    def __init__(self):
        self.tried = []

    def __call__(self, objective, trials, generator):
        def noted(setting):
            self.tried.append((objective(setting), setting))
            return self.tried[-1][0]

        searching()(noted, trials, generator)
        return max(self.tried, key=lambda pair: pair[0])[1]


def gridded(low, high, dice):
    return low * (high / low) ** (dice.integers(0, 20) / 19)


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (searching(draw=lambda low, high, dice: dice.uniform(low, high)), "not_log"),
        (searching(draw=gridded), "repeats"),
        (searching(draw=lambda low, high, dice: math.sqrt(low * high)), "repeats"),
        (searching(draw=unseeded), "not_repeatable"),
        (lambda objective, trials, dice: searching()(objective, trials, np.random.default_rng(0)), "not_drawn"),
        (lambda objective, trials, dice: searching()(objective, trials, copy.deepcopy(dice)), "not_used_up"),
        (with_rates_of_zero, "range"),
        (the_best_or_good_enough, "ended_early"),
        (searching(best=min), "worst"),
        (searching(tied=True), "tied"),
        (searching(more=1), "count"),
        (searching(high=10.0), "range"),
        (searching(draw=lambda low, high, dice: 10 ** dice.uniform(math.log10(low) + 1, math.log10(high))), "range"),
        (searching(draw=lambda low, high, dice: low * (high / low) ** dice.triangular(0, 0.5, 1)), "uneven"),
        (searching(draw=lambda low, high, dice: math.exp(dice.uniform(math.log10(low), math.log10(high)))), "range"),
        (rates_on_a_grid, "not_drawn"),
        (width_from_another_stream, "not_repeatable"),
        (width_of_the_rate, "tied"),
        (one_dictionary, "last"),
        (better_than_zero, "nothing_returned"),
        (searching(widths=(4, 8, 16)), "widths"),
        (searching(result=lambda setting: setting["lr"]), "wrong_type"),
        (searching(best=lambda tried, key: tried[0]), "not_best"),
        (searching(draw=lambda low, high, dice: low * (high / low) ** (dice.random() ** 3)), "uneven"),
        (lambda objective, trials, dice: [objective({"lr": 0.1, "width": 4}) for _ in range(trials)], "keys"),
        (lambda objective, *given: objective(0.1), "keys"),
        (lambda objective, *given: objective({"lr": 0.1, "weight_decay": 0.1, "width": [4, 8]}), "no_number"),
        (searching(widths=(4,) * 40 + (8, 16, 32, 64)), "uneven_widths"),
        (
            searching(draw=lambda low, high, dice: low * (high / low) ** np.clip(dice.normal(0.5, 0.25), 0, 1)),
            "repeats",
        ),
        (BestOfAll(), "of_another_search"),
    ],
)
def test_random_search_refuses(learner, symptom):
    refused(check.random_search(learner), symptom)


# promotion


def promoting(top_down=True, keep=3, reverse=True, last=1, spare=True, among_rest=False, first_only=False, at_least=0):
    def learner(values, promoted):
        rungs = range(len(values) - last)
        for rung in reversed(rungs) if top_down else rungs:
            rest = [t for t in values[rung] if not (among_rest and t in promoted[rung])]
            ranked = sorted(rest, key=values[rung].get, reverse=reverse)
            count = max(at_least, len(ranked) // keep)
            for trial in ranked[: 1 if first_only and count else count]:
                if not spare or trial not in promoted[rung]:
                    return trial, rung
        return None

    return learner


def by_heap(values, promoted):
    found = None
    for rung, reached in enumerate(values[:-1]):
        third = heapq.nlargest(len(reached) // 3, reached.items(), key=lambda item: item[1])
        free = [trial for trial, _ in third if trial not in promoted[rung]]
        found = (free[0], rung) if free else found
    return found


def as_a_pair(values, promoted):
    found = promoting()(values, promoted)
    return found and list(found)


def by_number(values, promoted):
    for rung in reversed(range(len(values) - 1)):
        third = heapq.nlargest(len(values[rung]) // 3, values[rung], key=values[rung].get)
        if free := sorted(set(third) - promoted[rung]):
            return free[0], rung
    return None


def by_places_left(values, promoted):
    for rung in reversed(range(len(values) - 1)):
        free = sorted(values[rung].keys() - promoted[rung], key=values[rung].get)
        if len(values[rung]) // 3 > len(promoted[rung]):
            return free[-1], rung
    return None


def by_the_highest_rung_reached(values, promoted):
    rung = max(rung for rung, reached in enumerate(values[:-1]) if reached or not rung)
    return promoting()(
        [*values[: rung + 1], {}], [set(values[k]) if k < rung else promoted[k] for k in range(rung + 1)]
    )


def by_value(values, promoted):
    """The best of all that may go on, from whatever rung."""
    free = [
        (reached[trial], trial, rung)
        for rung, reached in enumerate(values[:-1])
        for trial in heapq.nlargest(len(reached) // 3, reached, key=reached.get)
        if trial not in promoted[rung]
    ]
    return max(free)[1:] if free else None


def once_for_all(values, promoted):
    gone = set().union(*promoted)
    return promoting()(values, [gone] * len(promoted))


def noting_it(values, promoted):
    found = promoting()(values, promoted)
    if found:
        promoted[found[1]].add(found[0])
    return found


@pytest.mark.parametrize("learner", [promoting(), by_heap, halving.promotion, as_a_pair])
def test_promotion_accepts(learner):
    accepted(check.promotion(learner))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (promoting(top_down=False), "bottom_first"),
        (promoting(reverse=False), "worst"),
        (promoting(spare=False), "twice"),
        (promoting(among_rest=True), "remaining"),
        (promoting(first_only=True), "one_only"),
        (promoting(at_least=1), "too_early"),
        (promoting(last=0), "last_rung"),
        (by_number, "not_the_best"),
        (by_places_left, "places_taken"),
        (by_value, "highest_value"),
        (by_the_highest_rung_reached, "looks_no_further"),
        (once_for_all, "went_on_before"),
        (noting_it, "inputs_changed"),
        (lambda values, promoted: promoting()([*values[:2], {}], promoted), "four_rungs"),
        (lambda values, promoted: None, "never"),
        (lambda values, promoted: promoting()(values, promoted) or False, "wrong_type"),
        (lambda values, promoted: promoting()(values, promoted) or (), "wrong_type"),
        (lambda values, promoted: (4, 0) if len(values[0]) > 2 else None, "not_the_best"),
    ],
)
def test_promotion_refuses(learner, symptom):
    refused(check.promotion(learner), symptom)


def test_a_rule_that_only_knows_the_questions_is_refused_by_the_searches():
    known = promoting()

    def learner(values, promoted):
        return known(values, promoted) if len(values[0]) in (2, 6, 7) and 5 in values[0] else None

    assert check.promotion(learner).state == "wrong"


# report


def reporting(
    ours_budget=1,
    theirs_budget=1,
    pick=lambda val, test: test[val.argmax()],
    other=None,
    mean=np.mean,
    sign=1,
    half=None,
):
    half = half or (lambda gaps, one, two: t95(len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5)

    def learner(ours, theirs, budget, seeds):
        one = np.array([pick(*ours(int(budget * ours_budget), seed)) for seed in seeds])
        two = np.array([(other or pick)(*theirs(int(budget * theirs_budget), seed)) for seed in seeds])
        return float(sign * (mean(one) - mean(two))), float(half(one - two, one, two))

    return learner


def report_by_loops(ours, theirs, budget, seeds):
    gaps = []
    for seed in seeds:
        scores = []
        for method in (ours, theirs):
            val, test = method(budget, seed)
            scores.append(max(zip(val, test, strict=True))[1])
        gaps.append(scores[0] - scores[1])
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
    return mean, t95(len(gaps) - 1) * math.sqrt(variance / len(gaps))


@pytest.mark.parametrize("learner", [reporting(), report_by_loops])
def test_report_accepts(learner):
    accepted(check.report(learner))


def one_seed(ours, theirs, budget, seeds):
    return reporting()(ours, theirs, budget, [seeds[0]] * 5)


def one_seed_of_theirs(ours, theirs, budget, seeds):
    once = theirs(budget, seeds[0])
    return reporting()(ours, lambda *_: once, budget, seeds)


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (reporting(theirs_budget=0.5), "budgets"),
        (reporting(ours_budget=2), "budgets"),
        (one_seed, "seeds"),
        (one_seed_of_theirs, "seeds"),
        (reporting(pick=lambda val, test: test.max()), "test_chose"),
        (reporting(pick=lambda val, test: test.max(), other=lambda val, test: test[val.argmax()]), "test_chose"),
        (reporting(pick=lambda val, test: val.max()), "validation"),
        (reporting(mean=np.max), "best_of_seeds"),
        (reporting(sign=-1), "sign"),
        (reporting(mean=np.median), "mean"),
        (reporting(sign=100), "points"),
        (reporting(pick=lambda val, test: val[test.argmax()]), "roles_swapped"),
        (lambda *given: reporting()(*given)[::-1], "swapped"),
        (lambda *given: (lambda mean, half: (mean - half, mean + half))(*reporting()(*given)), "ends"),
        (reporting(half=lambda gaps, one, two: gaps.std(ddof=1)), "deviation"),
        (reporting(half=lambda gaps, one, two: gaps.std(ddof=1) / len(gaps) ** 0.5), "one_error"),
        (
            reporting(
                half=lambda gaps, one, two: (
                    t95(len(gaps) - 1) * math.hypot(one.std(ddof=1), two.std(ddof=1)) / len(gaps) ** 0.5
                )
            ),
            "unpaired",
        ),
        (reporting(half=lambda gaps, one, two: t95(len(gaps) - 1) * gaps.std() / len(gaps) ** 0.5), "ddof"),
        (reporting(half=lambda gaps, one, two: 0.0), "half"),
        (
            reporting(half=lambda gaps, one, two: 2 * t95(len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5),
            "whole_width",
        ),
        (lambda ours, theirs, budget, seeds: 0.01, "wrong_type"),
        (lambda ours, theirs, budget, seeds: (0.01, 0.01), "not_run"),
    ],
)
def test_report_refuses(learner, symptom):
    refused(check.report(learner), symptom)


# share_found


def finding(draw=True, error=None, scale=1.0, found=None):
    error = error or (lambda one, two: np.sqrt((one.var(1, ddof=1) + two.var(1, ddof=1)) / one.shape[1]))
    found = found or (lambda gaps, errors, seeds: abs(gaps) > t95(2 * seeds - 2) * errors)

    def learner(first, second, seeds, generator):
        if draw:
            one, two = (generator.choice(side, (1000, seeds)) for side in (first, second))
        else:
            one, two = (np.tile(side[:seeds], (1000, 1)) for side in (first, second))
        return float(scale * np.mean(found(one.mean(1) - two.mean(1), error(one, two), seeds)))

    return learner


def found_by_loops(first, second, seeds, generator):
    count = 0
    for _ in range(1000):
        one = first[generator.integers(0, len(first), seeds)]
        two = second[generator.integers(0, len(second), seeds)]
        half = t95(2 * (seeds - 1)) * math.hypot(one.std(ddof=1), two.std(ddof=1)) / math.sqrt(seeds)
        gap = two.mean() - one.mean()
        count += not (gap - half <= 0 <= gap + half)
    return count / 1000


@pytest.mark.slow
@pytest.mark.parametrize("learner", [finding(), found_by_loops])
def test_share_found_accepts(learner):
    accepted(check.share_found(learner))


def without_replacement(first, second, seeds, generator):
    sides = [np.array([generator.choice(side, seeds, replace=False) for _ in range(1000)]) for side in (first, second)]
    errors = np.sqrt(sum(side.var(1, ddof=1) for side in sides) / seeds)
    return float(np.mean(abs(sides[0].mean(1) - sides[1].mean(1)) > t95(2 * seeds - 2) * errors))


def by_one_draw(first, second, seeds, generator):
    places = generator.integers(len(first), size=(1000, seeds))
    one, two = first[places], second[places]
    errors = np.sqrt((one.var(1, ddof=1) + two.var(1, ddof=1)) / seeds)
    return float(np.mean(abs(one.mean(1) - two.mean(1)) > t95(2 * seeds - 2) * errors))


def in_a_hundred(first, second, seeds, generator):
    one, two = (generator.choice(side, (100, seeds)) for side in (first, second))
    errors = np.sqrt((one.var(1, ddof=1) + two.var(1, ddof=1)) / seeds)
    return float(np.mean(abs(one.mean(1) - two.mean(1)) > t95(2 * seeds - 2) * errors))


def in_mixed_runs(first, second, seeds, generator):
    generator.shuffle(first)
    return finding()(first, second, seeds, generator)


def half_from_the_global_stream(first, second, seeds, generator):
    return finding()(first, second, seeds, np.random) + 0 * generator.random()


def in_a_hundred_unlucky_ones(first, second, seeds, generator):
    """So few that one share is far off, and that with the sides exchanged is not."""
    return in_a_hundred(first, second, seeds, np.random.default_rng([1, generator.integers(9)]))


@pytest.mark.parametrize(
    ("learner", "symptom"),
    [
        (lambda *given: None, "no_number"),
        (half_from_the_global_stream, "not_repeatable"),
        (lambda first, second, seeds, dice: finding()(first, second, seeds, np.random), "not_drawn"),
        (lambda first, second, seeds, dice: finding()(first, second, seeds, np.random.default_rng(7)), "not_drawn"),
        (finding(found=lambda gaps, errors, seeds: gaps > t95(2 * seeds - 2) * errors), "one_sided"),
        (finding(found=lambda gaps, errors, seeds: -gaps > t95(2 * seeds - 2) * errors), "one_sided"),
        (finding(draw=False), "always_the_same"),
        (finding(error=lambda one, two: one.std(1, ddof=1) / one.shape[1] ** 0.5), "one_error"),
        (finding(error=lambda one, two: np.sqrt(one.var(1, ddof=1) + two.var(1, ddof=1))), "too_rarely"),
        (finding(error=lambda one, two: np.sqrt((one.std(1, ddof=1) + two.std(1, ddof=1)) / 10)), "too_rarely"),
        (finding(found=lambda gaps, errors, seeds: gaps < 0), "sign"),
        (finding(scale=100), "no_share"),
        (finding(found=lambda gaps, errors, seeds: abs(gaps) < t95(2 * seeds - 2) * errors), "the_others_counted"),
        (lambda first, second, seeds, dice: finding()(first, first, seeds, dice), "no_difference"),
        (finding(found=lambda gaps, errors, seeds: abs(gaps) > t95(2 * seeds) * errors), "other_factor"),
        (finding(error=lambda one, two: np.sqrt((one.var(1) + two.var(1)) / one.shape[1])), "ddof"),
        (in_mixed_runs, "inputs_changed"),
        (by_one_draw, "tied_draws"),
        (in_a_hundred, "too_few"),
        (in_a_hundred_unlucky_ones, "too_few"),
        (lambda first, second, seeds, dice: finding()(first, second, min(seeds, len(first)), dice), "few_runs"),
        (finding(error=lambda one, two: np.sqrt(2 * one.var(1, ddof=1) / one.shape[1])), "few_runs"),
        (finding(found=lambda gaps, errors, seeds: abs(gaps) > t95(2 * seeds - 1) * errors), "other_factor"),
        (finding(found=lambda gaps, errors, seeds: abs(gaps) > errors), "too_often"),
    ],
)
def test_share_found_refuses(learner, symptom):
    refused(check.share_found(learner), symptom)


def test_the_share_of_the_other_experiments_is_said_to_be_what_is_left():
    answer = finding(found=lambda gaps, errors, seeds: abs(gaps) < t95(2 * seeds - 2) * errors)
    assert "you find it in 95%, which is what 5% leaves." in check.share_found(answer).message


@pytest.mark.slow
def test_draws_without_replacement_are_refused():
    checked = check.share_found(without_replacement)
    assert (checked.state, checked.symptom) == ("wrong", "raised_ValueError")
    assert "replace=False" in checked.message
