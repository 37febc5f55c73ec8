"""`python -m torchcourse.tools.build`, or `make build`."""

import sys

from torchcourse.tools.build.notebooks import main

sys.exit(main())
