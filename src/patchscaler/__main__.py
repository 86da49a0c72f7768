"""`python -m patchscaler`, which `accelerate launch -m patchscaler` needs."""

import sys

from patchscaler.apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
