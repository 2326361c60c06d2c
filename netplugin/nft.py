"""nftables without a process: the library that the program `nft` is made of.

The problem: each container that starts adds three lines to our table, and each change of a service writes it anew. A
start of `nft` for that costs fifteen times what the change does, and thirty containers that start together begin a
hundred of them. The idea: say the same lines to libnftables, which is on every machine that has `nft`.

Next file: `netplugin/kernel.py`.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from miniorch.errors import MiniorchError


class Nft:
    """One connection to the kernel's nftables, in the namespace of the thread that first uses it.

    It has a thread of its own: each one that called the library would keep a heap of some megabytes.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "nft")
        self._library: Any = None
        self._context = ctypes.c_void_p()

    def run(self, text: str) -> None:
        """`nft -f -` with `text`: all of it or nothing. Blocks for a millisecond; raises what the kernel refused."""
        self._thread.submit(self._run, text).result()

    def _run(self, text: str) -> None:
        self._open()
        if self._library.nft_run_cmd_from_buffer(self._context, text.encode()) != 0:
            said = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
            raise MiniorchError(f"nft failed: {' '.join(said.split())}")

    def _open(self) -> None:
        if self._library is not None:
            return
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError:
            raise MiniorchError("the library libnftables is missing", remedy="make setup") from None
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))
        library.nft_ctx_buffer_error(self._context)
        self._library = library
