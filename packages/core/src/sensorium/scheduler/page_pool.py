"""``PagePool``: which sequences hold each KV page, and which free pages still hold a known prefix.

Pages are numbers 0 … num_pages-1, all of them given out; what they hold lies in the runner.
The pool knows nothing of sequences, tokens or how a page's key is made.

    free   [ no content … ][ least recently used … most recently used ]
             handed out from the left; the right part is found by ``match``
    used   one reference for each sequence whose page table holds the page
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class PagePool:
    """A free list, reference counts and an index from page keys to pages.

    Args:
        num_pages: how many there are.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._num_refs = [0] * num_pages
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_pages))
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Pages that ``allocate`` can hand out, those with a known prefix included."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Pages that sequences hold."""
        return self.num_pages - len(self._free)

    @property
    def num_known(self) -> int:
        """Pages, used or free, whose content ``match`` can find."""
        return len(self._page_of)

    def match(self, keys: Iterable[bytes]) -> list[int]:
        """The pages that hold the longest known run from the first key on; changes nothing."""
        pages: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            pages.append(page)
        return pages

    def num_free_among(self, pages: Iterable[int]) -> int:
        """How many of ``pages`` taking them would remove from the free ones."""
        return sum(self._num_refs[page] == 0 for page in pages)

    def share(self, pages: Iterable[int]) -> None:
        """Takes one more reference to each of ``pages``, free or used, with their content."""
        for page in pages:
            if self._num_refs[page] == 0:
                del self._free[page]
            self._num_refs[page] += 1

    def allocate(self, num_pages: int) -> list[int]:
        """Takes free pages: those without content first, then the least recently used."""
        assert num_pages <= len(self._free), "more pages were asked for than are free"
        pages: list[int] = []
        for _ in range(num_pages):
            page, _ = self._free.popitem(last=False)
            self._forget(page)
            self._num_refs[page] = 1
            pages.append(page)
        return pages

    def register(self, page: int, key: bytes) -> None:
        """Registers that a used page now holds the content of ``key``.

        If another page holds the same already, that one stays the known one.
        """
        assert self._num_refs[page] > 0, "only a used page can be registered"
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key] = page
            self._key_of[page] = key

    def release(self, pages: Sequence[int]) -> None:
        """Gives back one reference to each page of a sequence's table, in the table's order.

        The table's end becomes free before its beginning, so that what is reused first is
        what the fewest other prompts share.
        """
        for page in reversed(pages):
            assert self._num_refs[page] > 0, "a page was given back that nobody holds"
            self._num_refs[page] -= 1
            if self._num_refs[page] == 0:
                self._free[page] = None
                self._free.move_to_end(page, last=page in self._key_of)

    def forget_all(self) -> None:
        """Forgets every page's content; references stay."""
        self._page_of.clear()
        self._key_of.clear()

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Compares the books with the page tables of all sequences.

        Raises:
            AssertionError: they differ.
        """
        counts = Counter(page for table in tables for page in table)
        expected = [counts[page] for page in range(self.num_pages)]
        assert self._num_refs == expected, "reference counts and page tables differ"
        free = {page for page, refs in enumerate(self._num_refs) if refs == 0}
        assert set(self._free) == free, "the free list and the reference counts differ"
        inverse = {page: key for key, page in self._page_of.items()}
        assert inverse == self._key_of, "the prefix index and its inverse differ"

    def _forget(self, page: int) -> None:
        key = self._key_of.pop(page, None)
        if key is not None:
            del self._page_of[key]
