"""Jobs on other machines: a commit sent by git, made ready there, run and watched over, and its results fetched.

What a job tells the tracking server, and what is asked of it, is in `histocae.tracking.jobs.job_runs`.
"""
