"""The stages: what each makes of which others, and how it is checked. Which of them form a system, `systems` says."""
