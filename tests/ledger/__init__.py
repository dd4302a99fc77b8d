"""Every token is counted once, and no budget is overspent, in call trees of any shape."""
