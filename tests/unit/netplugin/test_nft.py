"""What the kernel or the library refuses is one message."""

from __future__ import annotations

import pytest

from miniorch.errors import MiniorchError
from netplugin.nft import Nft


def test_what_cannot_be_read_is_refused_with_the_reason_and_the_next_lines_are_read_anew() -> None:
    nft = Nft()
    for wrong in ("rubbish", "table ip x { chain y { ip daddr 300.1.2.3 drop; } }"):
        with pytest.raises(MiniorchError, match="^nft failed: Error: .*" + wrong.split()[0]):
            nft.run(wrong + "\n")
    nft.run("\n")
