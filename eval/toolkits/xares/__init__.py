"""X-ARES: encoders in the form it expects, its data sets made from users' copies, and its runs."""
