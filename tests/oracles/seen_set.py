"""The seen-name store as two Python sets."""

from __future__ import annotations


class SeenSet:
    """At least the ``limit`` names asked for last are remembered; ``evicted`` counts the others."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.current: set[bytes] = set()
        self.previous: set[bytes] = set()
        self.evicted = 0

    def insert(self, names: list[bytes]) -> list[bool]:
        """Tell for each name of a batch whether it is new, and remember it."""
        in_current = frozenset(self.current)
        remembered = set(self.previous)  # whatever a batch found once stays seen until its end
        answers = []
        for original in names:
            name = original.lower()
            if name in in_current or name in self.current:
                answers.append(False)
                continue
            if len(self.current) >= self.limit:
                self.evicted += len(self.previous - self.current)
                self.previous, self.current = self.current, set()
                remembered |= self.previous
            if name in remembered:
                answers.append(False)
            else:
                answers.append(True)
            self.current.add(name)
        return answers
