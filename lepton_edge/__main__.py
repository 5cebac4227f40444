"""`python -m lepton_edge` is `lepton`."""

import sys

from lepton_edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
