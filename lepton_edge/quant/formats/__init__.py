"""How weights lie in memory: one file per format. A new format is one more file and one line here."""

from lepton_edge.errors import RequestError
from lepton_edge.quant.formats.base import Format
from lepton_edge.quant.formats.blocks import GROUP, ROWS
from lepton_edge.quant.formats.mxfp4 import Mxfp4
from lepton_edge.quant.formats.plain import BF16, F16, F32
from lepton_edge.quant.formats.q4 import Q4
from lepton_edge.quant.formats.q8 import Q8

__all__ = ["FORMATS", "GROUP", "MXFP4", "ROWS", "Format", "get_format"]

MXFP4 = Mxfp4()
FORMATS: dict[str, Format] = {f.name: f for f in (F32(), F16(), BF16(), Q8(), Q4(), MXFP4)}


def get_format(name: str) -> Format:
    """The format called `name`; RequestError that lists the known ones when there is none."""
    try:
        return FORMATS[name]
    except KeyError:
        raise RequestError(f"no weight format {name!r}; expected one of {', '.join(FORMATS)}") from None
