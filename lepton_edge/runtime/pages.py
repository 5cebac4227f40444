"""The cache of keys and values: pages of 128 positions, given to sequences as they grow.

A page holds all layers.  Pages that a sequence gives back are kept for the next one.  Sequences that begin alike may
share pages; one is copied when a sequence is about to write to it.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..kernels.layout import PAGE
from .memory import aligned_zeros

__all__ = ["HostPages", "Pages"]

Page = TypeVar("Page")


class Pages(ABC, Generic[Page]):
    """Which page holds which positions of which sequence (slot).

    table: int64 [slots, pages of a full context], addresses.  lengths: cached positions of each open slot.
    page_bytes 0, as of a model without attention: there are no pages.  What a page is, subclasses say.
    """

    def __init__(self, page_bytes: int, context: int, slots: int) -> None:
        self._page_bytes, self.context = page_bytes, context
        self.table: NDArray[np.int64] = np.zeros((slots, -(-context // PAGE) if page_bytes else 1), np.int64)
        self.lengths: dict[int, int] = {}
        self._held: dict[int, list[Page]] = {}
        self._spare: list[Page] = []
        self._more: dict[int, int] = {}  # how many sequences but one have a page, by its address
        self._made = 0

    def open(self) -> int:
        """A new, empty sequence; RequestError when all slots are taken."""
        for slot in range(len(self.table)):
            if slot not in self.lengths:
                self.lengths[slot], self._held[slot] = 0, []
                return slot
        raise RequestError(f"all {len(self.table)} sequences are in use; close one first")

    def open_many(self, count: int) -> list[int]:
        """So many new sequences at once, or none: RequestError."""
        free = len(self.table) - len(self.lengths)
        if count > free:
            raise RequestError(f"{count} sequences at once; {free} of {len(self.table)} are free; expected fewer")
        return [self.open() for _ in range(count)]

    def close(self, slot: int) -> None:
        """Give a sequence's pages back."""
        self.check(slot)
        for page in self._held.pop(slot):
            self._give_back(page)
        del self.lengths[slot]

    def truncate(self, slot: int, length: int) -> None:
        """Forget a sequence's positions from `length` on, and give back the pages that only they were in."""
        self.check(slot)
        if not 0 <= length <= self.lengths[slot]:
            raise RequestError(f"cannot truncate to {length}: sequence {slot} has {self.lengths[slot]}")
        self.lengths[slot], held = length, self._held[slot]
        while held and (len(held) - 1) * PAGE >= length:
            self._give_back(held.pop())

    def fork(self, slot: int) -> int:
        """A new sequence with all that this one has; -> its slot.  RequestError when all slots are taken."""
        self.check(slot)
        other = self.open()
        self.lengths[other], self._held[other] = self.lengths[slot], list(self._held[slot])
        self.table[other] = self.table[slot]
        for page in self._held[other]:
            self._more[self._address(page)] = self._more.get(self._address(page), 0) + 1
        return other

    def check(self, slot: int) -> None:
        """RequestError unless the slot is open."""
        if slot not in self.lengths:
            raise RequestError(f"sequence {slot} is not open; open are {sorted(self.lengths)}")

    def reserve(self, slot: int, positions: int) -> None:
        """See to it that positions 0 … positions-1 of a sequence have memory."""
        held, first = self._held[slot], self.lengths[slot] // PAGE
        for i in range(first, len(held) if self._more else first):
            if self._address(held[i]) in self._more:
                mine = self._new_page()
                self._copy(mine, held[i])
                self._give_back(held[i])
                self.table[slot, i], held[i] = self._address(mine), mine
        while self._page_bytes and len(held) * PAGE < positions:
            page = self._new_page()
            self.table[slot, len(held)] = self._address(page)
            held.append(page)

    def _new_page(self) -> Page:
        if self._spare:
            page = self._spare.pop()
            self._clear(page)
            return page
        page = self._make()
        self._made += 1
        return page

    def _give_back(self, page: Page) -> None:
        """One sequence has the page no more."""
        more = self._more.pop(self._address(page), 0)
        if more > 1:
            self._more[self._address(page)] = more - 1
        elif not more:
            self._spare.append(page)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages, spare ones included."""
        return self._made * self._page_bytes

    @abstractmethod
    def _make(self) -> Page:
        """A zeroed page."""

    def _clear(self, page: Page) -> None:
        """Make a page that a sequence gave back fit for another one."""

    @abstractmethod
    def _copy(self, target: Page, source: Page) -> None:
        """All of a page into another one."""

    @abstractmethod
    def _address(self, page: Page) -> int:
        """Where a page lies."""


class HostPages(Pages[NDArray[np.uint8]]):
    """Pages in the host's memory."""

    def _make(self) -> NDArray[np.uint8]:
        return aligned_zeros(self._page_bytes)

    def _copy(self, target: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
        target[:] = source

    def _address(self, page: NDArray[np.uint8]) -> int:
        return page.ctypes.data
