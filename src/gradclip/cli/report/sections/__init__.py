"""The parts of the page: one module each, which turns findings into markup."""
