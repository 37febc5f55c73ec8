"""The links to outside are listed once, and lead to primary sources alone."""

import pytest

from torchcourse.tools.build import links
from torchcourse.tools.repository import ROOT


@pytest.fixture(scope="module")
def found() -> list[links.Link]:
    return links.links_to_outside(ROOT)


def test_the_page_is_what_the_build_gives(found: list[links.Link]) -> None:
    assert len({link.address for link in found}) > 100
    assert (ROOT / links.PATH).read_text(encoding="utf-8") == links.links_page(found)


def test_no_host_is_listed_that_nothing_links(found: list[links.Link]) -> None:
    assert [host for host in links.HOSTS if not any(f"//{host}/" in f"{link.address}/" for link in found)] == []


def test_an_address_stands_once_with_each_notebook_that_links_it(tmp_path) -> None:
    for path, text in {
        "solutions/01_a/1_b.py": "# [Two\n# words](https://doi.org/1), [page](2_c.ipynb)",
        "solutions/01_a/2_c.py": "# [again](https://doi.org/1)",
        "quizzes/01_a.yaml": "why: '[PyTorch](https://docs.pytorch.org/x)'",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert links.links_page(links.links_to_outside(tmp_path)) == links.HEAD + (
        "\n## Papers\n\n- [Two words](https://doi.org/1): [01/1](../notebooks/01_a/1_b.ipynb), "
        "[01/2](../notebooks/01_a/2_c.ipynb)\n"
        "\n## Documentation and standards\n\n"
        "- [PyTorch](https://docs.pytorch.org/x): [01/quiz](../notebooks/01_a/quiz.ipynb)\n"
    )


@pytest.mark.parametrize("address", ["https://someone.example/post", "http://arxiv.org/abs/1", "ftp://doi.org/1"])
def test_a_link_that_is_no_primary_source_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"links primary sources, by https"):
        links.links_page([links.Link("a text", address, "notebooks/01_a/1_b.ipynb")])
