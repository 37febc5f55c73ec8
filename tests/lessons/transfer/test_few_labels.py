"""The comparison trains as the table says, with the same images for every method."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from torchcourse.lessons.transfer import few_labels_picture as pictures
from torchcourse.lessons.transfer.few_labels import (
    LABELS,
    METHODS,
    RECIPES,
    SEEDS,
    TUNED_AT,
    TUNING_SEEDS,
    Results,
    best_recipe,
    digit_pixels,
    pick,
    results,
    run,
    validated,
)


def test_digits_have_their_place_and_their_white():
    pixels, labels = digit_pixels("test")
    assert pixels.shape == (500, 1, 12, 12)
    assert len(labels) == 500
    assert (pixels.min(), pixels.max()) == (0, 16)
    assert torch.equal(pixels, pixels.round())
    assert pixels[:, :, :2].abs().sum() == pixels[:, :, :, -2:].abs().sum() == 0


def test_choices_are_balanced_nested_and_seeded():
    labels = digit_pixels()[1]
    five, two = pick(labels, 5, seed=3), pick(labels, 2, seed=3)
    assert labels[five].bincount().tolist() == [5] * 10
    assert set(two.tolist()) < set(five.tolist())
    assert set(pick(labels, 5, seed=4).tolist()) != set(five.tolist())
    for many in (0, 121):
        with pytest.raises(ValueError, match=f"per_class={many}"):
            pick(labels, many, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_gives_about_what_the_table_says(method):
    random = torch.get_rng_state()
    result = run(method, per_class=2, seed=1)
    row = results().accuracy[method][LABELS.index(2)]
    assert abs(result.accuracy - row[1]) < 0.06
    assert result.seconds > 0
    assert torch.equal(torch.get_rng_state(), random)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'magic'"):
        run("magic", 1, 0)


def test_the_table_is_whole_and_says_who_made_it():
    table = results()
    assert find_spec(table.made.split()[2].rstrip(","))
    assert set(table.accuracy) == set(table.seconds) == set(METHODS)
    for method in METHODS:
        assert table.accuracy[method].shape == (len(LABELS), SEEDS[method])
        assert (table.accuracy[method] > 0.4).all()
        assert (table.seconds[method] > 0).all()
    for method, recipes in RECIPES.items():
        assert table.tuning[method].shape == (len(TUNED_AT), len(recipes), len(TUNING_SEEDS))


@pytest.mark.slow
def test_methods_with_rates_are_tuned_alike_and_on_images_that_test_nothing():
    assert len({len(recipes) for recipes in RECIPES.values()}) == 1
    assert not set(TUNING_SEEDS) & set(range(max(SEEDS.values())))
    recipe = RECIPES["fine-tuned"][0]
    tuned = results().tuning["fine-tuned"][TUNED_AT.index(1), 0, 0]
    assert abs(validated("fine-tuned", 1, TUNING_SEEDS[0], recipe) - tuned) < 0.04


def test_the_recipe_is_the_best_one_at_the_next_smaller_number_of_labels():
    tuning = {"scratch": np.zeros((3, 4, 3))}
    tuning["scratch"][[0, 1, 2], [1, 2, 3]] = 0.9
    wanted = {1: 1, 2: 1, 4: 1, 5: 2, 19: 2, 20: 3, 100: 3}
    for labels, place in wanted.items():
        assert best_recipe("scratch", labels, tuning) == RECIPES["scratch"][place]


def test_methods_are_paired_over_the_seeds_that_both_have():
    table = results()
    assert table.paired("frozen", "nearest neighbor", 50).pairs == 40
    assert table.paired("frozen", "scratch", 50).pairs == 10
    assert {len(values) for values in table.shared(50).values()} == {10}
    assert np.array_equal(table.shared(50)["frozen"], table.accuracy["frozen"][LABELS.index(50), :10])


def test_the_title_names_what_is_within_a_point_and_the_cheapest_first():
    base, noise = np.linspace(0.5, 0.6, 10), 0.05 * np.array([1, -1] * 5)

    def table(**gains):
        accuracy = {
            name: np.tile(base + gains.get(name[0], 0) + (name == "scratch") * noise, (7, 1)) for name in METHODS
        }
        seconds = {name: np.full((7, 10), float(place)) for place, name in enumerate(METHODS)}
        return Results(accuracy, seconds, {}, "here")

    title = "1 label per digit; within a point of the best, cheapest first: frozen, fine-tuned"
    assert pictures.describe_labels(1, table(f=0.1)) == title
    alone = "5 labels per digit: only nearest neighbor is sure to be within a point of the best"
    assert pictures.describe_labels(5, table(n=0.2)) == alone


def test_what_is_open_is_not_good_enough():
    base, noise = np.linspace(0.5, 0.6, 10), 0.05 * np.array([1, -1] * 5)
    methods = {"best": base, "clear, and within": base - 0.005, "open": base + noise - 0.001, "below": base - 0.02}
    assert pictures.good_enough(methods) == ["best", "clear, and within"]
    assert pictures.good_enough(methods, margin=0.03) == ["best", "clear, and within", "below"]
    assert pictures.good_enough(methods, margin=0.1) == list(methods)


def test_the_picture_shows_every_method_and_moves_with_the_labels():
    left, right = pictures.draw_labels(5, results()).axes
    assert len(left.containers) == len(METHODS)
    assert {text.get_text().replace("\n", " ") for text in right.texts} == set(METHODS)
    assert "CPU seconds" in right.get_xlabel()
    titles = {pictures.describe_labels(labels, results()) for labels in LABELS}
    assert len(titles) == len(LABELS)


def test_scalings_are_drawn_side_by_side():
    figure = pictures.draw_scalings({"a": torch.zeros(4, 4), "b": torch.ones(4, 4)}, "Two grays")
    assert [axis.get_xlabel().split("\n")[0] for axis in figure.axes[:2]] == ["a", "b"]
    assert "mean 1.00" in figure.axes[1].get_xlabel()


def test_solar_cells_alternate_and_are_sure():
    from torchcourse.lessons.transfer import solar

    assert solar.installed()
    assert "NC" in solar.LICENCE
    pixels, labels = solar.solar_cells(per_class=4, seed=1)
    assert (pixels.shape, pixels.dtype) == ((8, 1, 300, 300), torch.uint8)
    assert labels.tolist() == [0, 1] * 4
    assert not torch.equal(pixels, solar.solar_cells(4, seed=2)[0])
    assert torch.equal(pixels, solar.solar_cells(4, seed=1)[0])
    numbers = solar.brightness(pixels)
    assert numbers.shape == (8, 13)
    torch.testing.assert_close(numbers, solar.brightness(pixels.float() / 255))
    with pytest.raises(ValueError, match="1508 and 715"):
        solar.solar_cells(716)


def test_without_the_package_there_is_one_sentence(monkeypatch):
    from torchcourse.lessons.transfer import solar

    monkeypatch.setattr(solar, "installed", lambda: False)
    with pytest.raises(ImportError, match=r"\[lab\]"):
        solar.solar_cells(4)


def test_cpu_seconds_are_those_of_a_cpu_that_did_the_work(monkeypatch):
    trained_on = []

    def fine_tune(model, *_, device, **__):
        trained_on.append(device)
        return model

    monkeypatch.setattr("torchcourse.lessons.transfer.few_labels.fine_tune", fine_tune)
    run("scratch", per_class=1, seed=0)
    assert trained_on == ["cpu"]
