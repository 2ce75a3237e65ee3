"""Commands of `prefect-video`, a file each."""
