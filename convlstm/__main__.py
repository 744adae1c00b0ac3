"""Run the command line: python -m convlstm."""

import signal
import sys

from convlstm.cli.main import main

if __name__ == "__main__":
    # An ended process removes its unfinished files, as one that fails does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
