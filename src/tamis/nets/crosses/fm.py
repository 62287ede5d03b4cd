"""Factorization machine: the products of all pairs of fields, summed.

    Σ_{i<j} e_i ∘ e_j = ½ [(Σ_i e_i)² − Σ_i e_i²]        [d], in O(fields · d) instead of O(fields² · d)

Its sum over d is the pair term Σ_{i<j} ⟨e_i, e_j⟩ of the model p = b + Σ w_i x_i + Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j, where
e_i = x_i v_i. The ranker hands on all d numbers: its straight line sums them with weights (all 1 is the machine itself,
whose w are the weights of the item's codes), and beside the experts that is DeepFM. No weights of its own.
(Rendle, "Factorization machines", ICDM 2010; the vector: He and Chua, "Neural factorization machines", SIGIR 2017.)
"""

from torch import Tensor, nn

from tamis.nets.crosses.fields import Fields


def pooled(fields: Tensor) -> Tensor:
    """[n, d] Σ_{i<j} e_i ∘ e_j of fields [n, f, d]."""
    return (fields.sum(1).square() - fields.square().sum(1)) * 0.5


class Fm(nn.Module):
    """Rows [n, fields.width] → [n, fields.size]."""

    def __init__(self, fields: Fields) -> None:
        super().__init__()
        self.fields, self.width = fields, fields.size

    def forward(self, x: Tensor) -> Tensor:
        """[n, size]."""
        return pooled(self.fields.of(x))
