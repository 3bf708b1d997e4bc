"""What the paper does not have: streaming students, a balanced loss, and their evaluation."""
