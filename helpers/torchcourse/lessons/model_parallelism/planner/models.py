"""A transformer for the planner: how many parameters it has, and how many floating-point operations it takes.

FLOP are floating-point operations, of one sequence where a name does not say otherwise.
"""

from dataclasses import dataclass
from typing import Any

from torchcourse.lessons.model_parallelism.planner.given_numbers import check_whole, check_yes_or_no, count_as_python


@dataclass(frozen=True)
class Model:
    """A decoder-only transformer of equal layers.

    Attributes:
        layers, width, heads, vocabulary, sequence: as in the papers' l, h, a, V and s.
        feed_forward: width between the two feed-forward matrices; 0 stands for 4 · width.
        key_value_heads: fewer than `heads` with grouped-query attention; 0 stands for as many.
        gated: three feed-forward matrices (SwiGLU) instead of two, and no biases, as in Llama.
        dropout: whether dropout masks are kept for the backward pass, as in GPT-3.
        tied: whether input and output share one embedding matrix.
    """

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int = 51_200
    sequence: int = 2048
    feed_forward: int = 0
    key_value_heads: int = 0
    gated: bool = False
    dropout: bool = True
    tied: bool = True

    def __post_init__(self) -> None:
        count_as_python(self)
        parts = ("layers", "width", "heads", "vocabulary", "sequence")
        check_whole(self.name, **{part: getattr(self, part) for part in parts})
        check_whole(self.name, least=0, feed_forward=self.feed_forward, key_value_heads=self.key_value_heads)
        check_yes_or_no(self.name, gated=self.gated, dropout=self.dropout, tied=self.tied)
        object.__setattr__(self, "feed_forward", self.feed_forward or 4 * self.width)
        object.__setattr__(self, "key_value_heads", self.key_value_heads or self.heads)
        if self.width % self.heads:
            raise ValueError(f"{self.name}: {self.heads} heads cannot share a width of {self.width} evenly.")
        if self.heads % self.key_value_heads:
            raise ValueError(f"{self.key_value_heads} key-value heads cannot be shared by {self.heads} heads.")

    @property
    def key_value_share(self) -> float:
        """Width of the keys (or of the values) as a fraction of the model's width."""
        return self.key_value_heads / self.heads

    @property
    def layer_parameters(self) -> float:
        """Parameters of one layer: 12h² + 13h in GPT, where the 13h are biases and norms.

        Source: Narayanan et al. 2021, equation 2, https://arxiv.org/abs/2104.04473
        """
        h, matrices = self.width, 3 if self.gated else 2
        weights = h * h * (2 + 2 * self.key_value_share) + matrices * h * self.feed_forward
        small = 2 * h if self.gated else (4 + 2 + 2 * self.key_value_share + 1) * h + self.feed_forward
        return weights + small

    @property
    def embedding_parameters(self) -> float:
        """Parameters of one embedding matrix."""
        return self.vocabulary * self.width

    @property
    def parameters(self) -> float:
        """All parameters: 12lh²(1 + 13/(12h) + (V + s)/(12lh)) in GPT, which learns its positions.

        Source: Narayanan et al. 2021, equation 2, https://arxiv.org/abs/2104.04473
        """
        positions = 0 if self.gated else self.sequence * self.width
        return self.layers * self.layer_parameters + (1 if self.tied else 2) * self.embedding_parameters + positions

    @property
    def score_flop(self) -> float:
        """FLOP of the attention scores of one layer and one sequence, forward: 4s²h, the masked half counted too."""
        return 4 * self.sequence**2 * self.width

    @property
    def layer_flop(self) -> float:
        """FLOP of one layer and one sequence, forward: 24sh² + 4s²h in GPT. Matrix products only.

        Source: Narayanan et al. 2021, appendix, https://arxiv.org/abs/2104.04473
        """
        h, matrices = self.width, 3 if self.gated else 2
        weights = h * h * (2 + 2 * self.key_value_share) + matrices * h * self.feed_forward
        return 2 * self.sequence * weights + self.score_flop

    @property
    def head_flop(self) -> float:
        """FLOP of the output layer and one sequence, forward: 2shV."""
        return 2 * self.sequence * self.width * self.vocabulary

    @property
    def model_flop(self) -> float:
        """FLOP per sequence that training needs: the backward pass costs twice the forward pass.

        In GPT this is 72lsh²(1 + s/(6h) + V/(12lh)). The numerator of model FLOP utilization (MFU).

        Source: Korthikanti et al. 2022, equation 7, https://arxiv.org/abs/2205.05198
        """
        return 3 * (self.layers * self.layer_flop + self.head_flop)

    def hardware_flop(self, recomputation: str, every: int = 1) -> float:
        """FLOP per sequence that the hardware does: `model_flop`, and what is computed again, of every so many layers.
        For HFU.

        With full recomputation 96lsh²(1 + s/(6h) + V/(16lh)) in GPT (Narayanan et al. 2021, equation 3). With selective
        recomputation the scores count once more. Korthikanti et al. 2022, equation 8, count them three times more,
        which makes their HFU up to 1.3 points higher than this one.
        """
        again = {"none": 0.0, "selective": self.score_flop, "full": self.layer_flop}[recomputation]
        return self.model_flop + self.layers / every * again


GPT3 = Model("GPT-3 175B", layers=96, width=12288, heads=96)
"""As Narayanan et al. 2021 ran it: vocabulary 51,200, sequences of 2,048 tokens, https://arxiv.org/abs/2104.04473"""

_LLAMA3: dict[str, Any] = {
    "vocabulary": 128_256,
    "sequence": 8192,
    "key_value_heads": 8,
    "gated": True,
    "dropout": False,
    "tied": False,
}
LLAMA3_8B = Model("Llama 3 8B", layers=32, width=4096, heads=32, feed_forward=14_336, **_LLAMA3)
LLAMA3_70B = Model("Llama 3 70B", layers=80, width=8192, heads=64, feed_forward=28_672, **_LLAMA3)
LLAMA3_405B = Model("Llama 3 405B", layers=126, width=16_384, heads=128, feed_forward=53_248, **_LLAMA3)
"""Llama team 2024, table 3 and section 3.2, https://arxiv.org/abs/2407.21783"""
