"""A GPU through NVIDIA's driver: memory, kernels, one stream, and graphs of launches.

Packages: `cuda.bindings`, which comes with numba-cuda.  Addresses are integers; every call of the driver is checked.
"""

import ctypes
import os
import weakref
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MachineError

__all__ = ["Device", "Graph", "Launch", "Shape", "open_device"]

Shape = tuple[int, int, int, int]  # blocks in x, y and z; threads of a block
Launch = tuple[str, int, int, int, Shape]  # kernel, row, header, extra, shape
INSTALL = "install it with `pip install 'lepton-edge[cuda]'`"


def open_device() -> "Device":
    """The GPU that this process uses, the first that CUDA_VISIBLE_DEVICES allows.

    MachineError says which is missing: the package, the driver, or a device.
    """
    return _device(os.getpid())


@lru_cache(maxsize=1)
def _device(pid: int) -> "Device":
    return Device()


class Graph:
    """Launches that are started all at once: call it.  The device forgets it with this object."""

    def __init__(self, start: Callable[[], None], end: Callable[[], None]) -> None:
        self._start = start
        weakref.finalize(self, end)

    def __call__(self) -> None:
        self._start()


class Device:
    """One GPU of this process, in its primary context, with a stream of our own."""

    tensor_cores = True

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise MachineError(f"device 'cuda' needs the package numba-cuda ({error}); {INSTALL}") from None
        self._driver = driver
        try:
            self._check("cuInit", 0)
        except (RuntimeError, OSError) as error:  # the library is not there
            hint = "install one, or use the CPU"
            raise MachineError(f"device 'cuda': no NVIDIA driver was found ({error}); {hint}") from None
        if self._check("cuDeviceGetCount") == 0:
            raise MachineError("device 'cuda': the driver sees no GPU; look at `nvidia-smi` and CUDA_VISIBLE_DEVICES")
        self._device = self._check("cuDeviceGet", 0)
        self._context = self._check("cuDevicePrimaryCtxRetain", self._device)
        self.use()
        self._stream = self._check("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._functions: dict[str, Any] = {}
        self._sizes: dict[int, int] = {}
        attribute = driver.CUdevice_attribute
        major = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
        minor = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
        self.arch = f"{major}{minor}"
        self.processors = self._attribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.name = self._check("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode()
        if major < 8:
            found = f"{self.name} is of compute capability {major}.{minor}"
            raise MachineError(f"device 'cuda': {found}; expected 8.0 or more")

    def _attribute(self, attribute: Any) -> int:
        return int(self._check("cuDeviceGetAttribute", attribute, self._device))

    def _check(self, name: str, *args: Any) -> Any:
        """Call the driver; -> what it gives.  MachineError where it fails."""
        status, *results = getattr(self._driver, name)(*args)
        if int(status) != 0:
            if int(status) in (3, 100, 34) and name in ("cuInit", "cuDeviceGetCount"):
                hint = "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES"
                raise MachineError(f"device 'cuda': the driver sees no GPU ({status.name}); {hint}")
            raise MachineError(f"device 'cuda': {name} failed: {status.name} ({int(status)})")
        return results[0] if len(results) == 1 else results or None

    def use(self) -> None:
        """Make the device that of this thread."""
        self._check("cuCtxSetCurrent", self._context)

    # -- memory -----------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> int:
        """Zeroed device memory; -> its address, a multiple of 256."""
        self.use()
        status, address = self._driver.cuMemAlloc(max(1, nbytes))
        if int(status) == 2:
            free = f"{self._check('cuMemGetInfo')[0] / 1e6:.0f} MB are free"
            hint = "use a smaller context, a smaller format, or the CPU"
            raise MachineError(f"out of memory on {self.name}: {nbytes / 1e6:.0f} MB are not to be had; {free}; {hint}")
        if int(status):
            raise MachineError(f"device 'cuda': cuMemAlloc failed: {status.name}")
        self._sizes[int(address)] = nbytes
        self.zero(int(address), nbytes)
        return int(address)

    def free(self, address: int) -> None:
        """Give memory back, when nothing uses it any more; the collector may be in any thread."""
        self.use()
        self._driver.cuMemFree(address)
        del self._sizes[address]

    @property
    def allocated(self) -> int:
        """Bytes that are allocated here and not given back."""
        return sum(self._sizes.values())

    def pin(self, nbytes: int) -> NDArray[np.uint8]:
        """Memory of the host that the device copies from and to by itself; given back with its last view."""
        self.use()
        address = int(self._check("cuMemHostAlloc", nbytes, 0))
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        weakref.finalize(memory, self._unpin, address)
        return np.ctypeslib.as_array(memory)

    def _unpin(self, address: int) -> None:
        self.use()
        self._driver.cuMemFreeHost(address)

    def zero(self, address: int, nbytes: int) -> None:
        if nbytes:
            self._check("cuMemsetD8Async", address, 0, nbytes, self._stream)

    def upload(self, address: int, data: NDArray[Any]) -> None:
        """Bytes of the host to the device; they may change as soon as this returns, unless they are pinned."""
        if data.nbytes:
            self._check("cuMemcpyHtoDAsync", address, data.ctypes.data, data.nbytes, self._stream)

    def download(self, data: NDArray[Any], address: int) -> None:
        """Bytes of the device to the host; there once `wait` returns."""
        if data.nbytes:
            self._check("cuMemcpyDtoHAsync", data.ctypes.data, address, data.nbytes, self._stream)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Bytes from one place of the device to another."""
        self._check("cuMemcpyDtoDAsync", target, source, nbytes, self._stream)

    def wait(self) -> None:
        """Until all that was begun is done."""
        self._check("cuStreamSynchronize", self._stream)

    # -- kernels ----------------------------------------------------------------------------------------------------

    def load(self, kernels: Iterable[str], notify: Callable[[str], None] | None = None) -> None:
        """See to it that kernels can be launched; they are compiled if they never were for this kind of GPU."""
        from ...kernels.cuda.library import cubins

        missing = [name for name in dict.fromkeys(kernels) if name not in self._functions]
        for name, code in (cubins(missing, self.arch, notify) if missing else {}).items():
            module = self._check("cuModuleLoadData", code)
            self._functions[name] = self._check("cuModuleGetFunction", module, f"lepton_{name}".encode())

    def launch(self, launches: Iterable[Launch]) -> None:
        """Start kernels, one after the other: each may begin while the one before ends (see `ptx.begin`)."""
        driver, kinds = self._driver, (ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        config = driver.CUlaunchConfig()
        config.hStream, config.gridDimY, config.blockDimY, config.blockDimZ = self._stream, 1, 1, 1
        if int(self.arch) >= 90:
            early = driver.CUlaunchAttribute()
            early.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            early.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [early], 1
        for name, row, header, extra, (x, y, z, threads) in launches:
            config.gridDimX, config.gridDimY, config.gridDimZ, config.blockDimX = x, y, z, threads
            (status,) = driver.cuLaunchKernelEx(config, self._functions[name], ((row, header, extra), kinds), 0)
            if int(status):
                raise MachineError(f"device 'cuda': the kernel {name} could not be started: {status.name}")

    def record(self, begin: Callable[[], None]) -> "Graph":
        """What `begin` starts, as a graph."""
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._check("cuStreamBeginCapture", self._stream, mode)
        try:
            begin()
        finally:
            graph = self._check("cuStreamEndCapture", self._stream)
        ready = self._check("cuGraphInstantiate", graph, 0)
        self._check("cuGraphDestroy", graph)
        return Graph(lambda: self._check("cuGraphLaunch", ready, self._stream), lambda: self._end(ready))

    def _end(self, graph: Any) -> None:
        self.use()
        self._driver.cuGraphExecDestroy(graph)

    def timer(self) -> Callable[[], float]:
        """Begin to measure; -> a function that gives the device's seconds until it is called."""
        first, last = (self._check("cuEventCreate", 0) for _ in range(2))
        self._check("cuEventRecord", first, self._stream)

        def stop() -> float:
            self._check("cuEventRecord", last, self._stream)
            self._check("cuEventSynchronize", last)
            return float(self._check("cuEventElapsedTime", first, last)) / 1000

        return stop
