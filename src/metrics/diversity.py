"""How much pictures differ from each other, beside how much real ones do."""

from torch import Tensor

from src.metrics.frechet import FeatureMoments, Statistics


def spread(covariance: Tensor) -> Tensor:
    """The root of the mean squared distance of two draws, up to a constant: (D, D) -> ()."""
    return covariance.trace().sqrt()


def effective_dimension(covariance: Tensor) -> Tensor:
    """The number of directions of equal variance that would be as concentrated: (D, D) -> (), the participation ratio
    of the eigenvalues. Of K distinct pictures it is at most K - 1."""
    return covariance.trace().square() / covariance.square().sum()


class Diversity:
    """Of generated pictures as a share of that of real ones, from FeatureMoments.

    The value is the ratio of their spreads; `_dimension` that of their effective dimensions, which also falls when
    there are few kinds of pictures far from each other. 0 where all generated pictures are alike.
    """

    statistics_key = "moments"

    def statistics(self, num_features: int) -> FeatureMoments:
        return FeatureMoments(num_features)

    def __call__(self, real: Statistics, generated: Statistics) -> dict[str, float]:
        """The values, under the suffixes their names get."""
        ratios = {
            "": spread(generated[1]) / spread(real[1]),
            "_dimension": effective_dimension(generated[1]) / effective_dimension(real[1]),
        }
        return {suffix: float(ratio.nan_to_num(0.0)) for suffix, ratio in ratios.items()}
