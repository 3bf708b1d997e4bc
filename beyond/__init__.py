"""What the paper does not have: streaming students, a balanced loss, and their evaluation."""

import common  # noqa: F401  (first, for Ctrl-C during imports)
