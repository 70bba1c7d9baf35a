"""X-ARES: our encoders in its form, its data sets from users' copies, its runs."""
