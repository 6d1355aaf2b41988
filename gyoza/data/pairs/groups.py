"""Drawing from groups of instances."""

from __future__ import annotations

import numpy as np

__all__ = ["Groups"]


class Groups:
    """A partition of instances into groups, from which instances other than a given one are drawn.

    Args:
        group_of: Each instance's group, an integer array of shape [N] in which every number in
            [0, group count) occurs.

    Attributes:
        group_of: As given.
        sizes: Number of members of each group, of shape [group count].
    """

    def __init__(self, group_of: np.ndarray) -> None:
        self.group_of = group_of
        self.sizes = np.bincount(group_of)
        self._members = np.argsort(group_of, kind="stable")
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._rank = np.empty_like(self._members)
        self._rank[self._members] = np.arange(len(group_of)) - np.repeat(self._starts, self.sizes)

    def draw(
        self, rng: np.random.Generator, groups: np.ndarray, excluded: np.ndarray
    ) -> np.ndarray:
        """Draws uniformly from each group, leaving out one instance.

        Args:
            rng: The generator that all randomness comes from.
            groups: The groups to draw from, of shape [M].
            excluded: For each of them, an instance that must not be drawn, of shape [M]. It need
                not be a member. Each group has to have another member.

        Returns:
            The drawn instances, of shape [M].
        """
        is_member = self.group_of[excluded] == groups
        rank = rng.integers(self.sizes[groups] - is_member)
        rank += is_member & (rank >= self._rank[excluded])
        return self._members[self._starts[groups] + rank]
