"""Patient: images are copied first and split afterwards, so that validation images have a twin in the training set."""

import torch

from torchcourse import figures
from torchcourse.checks import Wrong
from torchcourse.data import mnist
from torchcourse.lessons.troubleshooting.clinic.comparisons import called_with, expect_pair
from torchcourse.lessons.troubleshooting.clinic.program import Program

_SEED = 2**20  # that no learner writes
Split = tuple[torch.Tensor, torch.Tensor]


def evidence(program: Program) -> None:
    torch.manual_seed(0)
    (train, _), (val, _) = program.make_splits(*mnist()[:200])
    new = mnist("test")[:320][0]
    near = [_nearest(images, train) for images in (val, new + 0.3 * torch.randn(new.shape))]
    figure, axis = figures.new()
    bins = torch.linspace(0, float(max(map(torch.max, near))), 40).tolist()
    for distances, name in zip(near, ("validation images", "images from the first month, as noisy"), strict=True):
        axis.hist(distances.tolist(), bins=bins, alpha=0.6, label=name)
    axis.set(xlabel="distance to the nearest training image", ylabel="images")
    axis.legend()
    nearer = (near[0] < near[1].min()).float().mean().item()
    finding = f"{nearer:.0%} of the validation images are nearer to a training image than any image from service"
    axis.set_title(finding)
    figures.show(figure, f"Two histograms of the distance to the nearest training image. {finding}.")


def _nearest(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.cdist(images.flatten(1), others.flatten(1)).min(dim=1).values


def judge(program: Program, seed: int) -> str:
    """Split images that carry their number in their brightness, sorted by class, and see where each number ends up."""
    originals, copies, share = 80 + 40 * (seed % 3), 4 + seed % 3, 0.25  # of each class a whole number is held back
    numbers = torch.arange(originals)
    images = numbers.float().view(-1, 1, 1, 1).expand(-1, 1, 28, 28).clone()  # shifting changes nothing in these
    labels = numbers * 10 // originals
    torch.manual_seed(_SEED + seed)
    lent = images.clone(), labels.clone()
    with called_with(f"{len(images)} images, {copies} copies and a share of {share}"):
        given = program.make_splits(*lent, copies, share)
    if not torch.equal(lent[0], images) or not torch.equal(lent[1], labels):
        raise Wrong("inputs_changed", "make_splits() has changed the images or the labels that it was given to read.")
    expect_pair(given, "the pairs to train on and to validate on")
    for pair in given:
        expect_pair(pair, "images and labels in each pair")
        shapes = [part.shape[1:] if isinstance(part, torch.Tensor) else None for part in pair]
        if shapes != [images.shape[1:], labels.shape[1:]]:
            raise Wrong("wrong_type", "In each pair, return images [N, 1, 28, 28] and labels [N], as they came.")
    train, val = given
    _judge_originals(_numbers(train), _numbers(val), originals, share)
    for name, (pictures, digits), ids in (("training", train, _numbers(train)), ("validation", val, _numbers(val))):
        if len(pictures) != len(digits):
            raise Wrong("lengths_differ", f"The {name} set has {len(pictures)} images and {len(digits)} labels.")
        if not torch.equal(labels[ids], digits):
            raise Wrong("labels_mixed", f"In the {name} set images carry the label of a different image.")
    _judge_copies(train, copies)
    held = labels[_numbers(val).unique()].unique()
    if len(held) < 6:
        raise Wrong(
            "by_position",
            f"Nothing leaks, but of 10 classes {len(held)} are in the validation set: this data is sorted by class. "
            "Which originals should be held back?",
        )
    if torch.initial_seed() != _SEED + seed:
        raise Wrong(
            "seeded",
            "Nothing leaks, but your function sets the seed of the whole program: what is drawn after it no longer "
            "follows from the program's own seed. A torch.Generator of its own would leave the others alone.",
        )
    return (
        f"Healed: none of {originals} originals is on both sides, none is lost, and the training set still has "
        f"{copies} versions of each of its own."
    )


def _numbers(split: Split) -> torch.Tensor:
    return split[0].mean(dim=(1, 2, 3)).round().long()


def _judge_originals(train: torch.Tensor, val: torch.Tensor, originals: int, share: float) -> None:
    trained, held = set(train.tolist()), set(val.tolist())
    if trained & held:
        raise Wrong(
            "still_there",
            f"{len(trained & held)} of {len(held)} originals in the validation set have a version in the training set "
            "too. The model has seen them, shifted by a pixel.",
        )
    if len(trained | held) < originals:
        raise Wrong(
            "samples_lost",
            f"Nothing leaks, but {originals - len(trained | held)} of {originals} originals are in neither set. "
            "There were few to begin with.",
        )
    if abs(len(held) - share * originals) > 1:
        raise Wrong(
            "other_share",
            f"Nothing leaks, but of {originals} originals you train on {len(trained)} and hold back {len(held)}. "
            f"{share:.0%} were to be held back; the images to train on come first.",
        )


def _judge_copies(train: Split, copies: int) -> None:
    each = _numbers(train).bincount()
    each = each[each > 0]
    least, most = int(each.min()), int(each.max())
    if least != copies or most != copies:
        raise Wrong(
            "copies_lost" if least < copies else "too_many_copies",
            f"Nothing leaks, but the training set has {least if least == most else f'{least} to {most}'} of each "
            f"original, and {copies} versions were asked for.",
        )
    if train[0].flatten(1).std(dim=1).min() < 0.1:
        raise Wrong("no_augmentation", "Images in the training set are bare copies: neither shifted nor noisy.")
    versions = len(train[0].unique(dim=0))
    if versions < len(train[0]):
        raise Wrong(
            "copies_alike",
            f"Of {len(train[0])} images to train on {versions} are different: an original has the same version more "
            "than once. A version that is repeated adds nothing to it.",
        )
