"""The customer's files are as they are described, and are measured card by card."""

import pytest
import torch
from torch import nn

from torchcourse.lessons.capstone.budget import Meter
from torchcourse.lessons.capstone.delivery import broken_files, deliver
from torchcourse.lessons.capstone.delivery_picture import cards_of, draw_card, look_at
from torchcourse.lessons.capstone.measured import card_by_card
from torchcourse.lessons.capstone.sizes import SCALES, scale
from torchcourse.lessons.datasets.folder import read_image, read_table


def test_a_delivery_has_whole_cards_and_files_that_are_cut_off(tmp_path):
    folder = deliver(tmp_path / "d", 80, seed=3)
    rows = read_table(folder / "labels.csv", ("file", "card", "label"))
    cards = [row["card"] for row in rows]
    assert len(rows) == 80
    assert {cards.count(card) for card in cards} == {8}
    unreadable = []
    for row in rows:
        try:
            assert read_image(folder / row["file"]).mean() > 0.3  # paper is light
        except ValueError:
            unreadable.append(row["file"])
    assert unreadable == broken_files(80) == ["0007.png", "0047.png"]


def test_a_seed_gives_the_same_files_again_and_others_give_others(tmp_path):
    one, again, other = (deliver(tmp_path / str(n), 80, seed) / "0000.png" for n, seed in enumerate((1, 1, 2)))
    assert one.read_bytes() == again.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("images", [79, 72, 4000])
def test_deliveries_that_cannot_be(tmp_path, images):
    with pytest.raises(ValueError, match=r"images|pictures"):
        deliver(tmp_path / "d", images)


def test_card_by_card_leaves_out_broken_files_and_refuses_training_mode(tmp_path):
    folder = deliver(tmp_path / "d", 80, seed=3)
    labels = iter(sorted(read_table(folder / "labels.csv", ("file", "card", "label")), key=lambda row: row["card"]))
    rows = [row for row in labels if row["file"] not in broken_files(80)]
    truth = iter(rows)

    def knows(inputs):
        return nn.functional.one_hot(torch.tensor([int(next(truth)["label"]) for _ in inputs]), 10)

    assert card_by_card(knows, folder) == [1.0] * 10
    with pytest.raises(ValueError, match="eval"):
        card_by_card(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), folder)


def test_every_scale_can_be_delivered_and_the_larger_one_costs_more():
    sizes = list(SCALES.values())
    assert all(size.images % 8 == 0 and size.images * 7 // 8 <= 1297 for size in sizes)
    assert [size.cpu_seconds for size in sizes] == sorted(size.cpu_seconds for size in sizes)
    with pytest.raises(ValueError, match="two cores"):
        scale("huge")


def test_a_meter_counts_what_this_process_computes():
    with Meter() as meter:
        sum(range(300_000))
    assert 0 < meter.seconds < 5


def test_each_card_can_be_looked_at_also_where_a_file_is_cut_off(tmp_path):
    folder = deliver(tmp_path / "d", 80)
    explorer = look_at(folder)
    slider, picture = explorer.children
    cards = cards_of(folder)
    names, broken = list(cards), read_table(folder / "labels.csv", ("file", "card", "label"))[7]["card"]
    for name in (broken, next(name for name in names if name != broken)):
        slider.value = names.index(name)
        labels = [row["label"] for row in cards[name]]
        assert f"Card {name}, one of 10: {', '.join(labels)}" in picture.value
        texts = [text.get_text() for text in draw_card(folder, name, cards[name]).axes[0].texts]
        assert [text for text in texts if "\n" not in text] == labels
        assert ("cannot\nbe read" in texts) or name != broken
