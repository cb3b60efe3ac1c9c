"""The operators, by kind; each entry holds everything about one."""
