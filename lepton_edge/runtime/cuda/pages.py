"""The cache's pages in a GPU's memory."""


from ..pages import Pages
from .device import Device
from .memory import Block

__all__ = ["CudaPages"]


class CudaPages(Pages[Block]):
    """Pages that are blocks of the device.  One that another sequence has had is zeroed: what it left there may be NaN,
    and the kernels read past a sequence's last position."""

    def __init__(self, device: Device, page_bytes: int, context: int, slots: int) -> None:
        super().__init__(page_bytes, context, slots)
        self._device = device

    def _make(self) -> Block:
        return Block(self._device, self._page_bytes)

    def _clear(self, page: Block) -> None:
        self._device.zero(page.at, self._page_bytes)

    def _copy(self, target: Block, source: Block) -> None:
        self._device.copy(target.at, source.at, self._page_bytes)

    def _address(self, page: Block) -> int:
        return page.at

    def free(self) -> None:
        """Give all memory back."""
        for page in (*self._spare, *(page for held in self._held.values() for page in held)):
            page.free()


