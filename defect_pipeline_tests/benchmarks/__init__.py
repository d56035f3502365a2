"""How long things take, against what a user would run instead; never run by the test command."""
