"""The pipeline: from a project to its stored videos, its plan and its report."""
