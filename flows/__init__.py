"""Steps composed: the entry point of every deployment.

Importing a flow imports Prefect; deployments name them by module, as `prefect_video.flows.project.generate_project`.
May import tasks, blocks and the domain.
"""

from typing import TYPE_CHECKING

from prefect_video._lazy_names import import_at_first_use

if TYPE_CHECKING:
    from prefect_video.flows.cancellation import cancel_generations
    from prefect_video.flows.collect import collect_generations
    from prefect_video.flows.experiments import measure_rate_limit, measure_response_time, measure_webhooks
    from prefect_video.flows.gallery import publish_pages
    from prefect_video.flows.project import generate_project
    from prefect_video.flows.shot import generate_shot
    from prefect_video.flows.spend import spend_report
    from prefect_video.flows.verify import verify_videos
else:
    # The process of a run needs one flow, and each takes time and memory to import.
    __getattr__ = import_at_first_use(
        __name__,
        {
            "cancel_generations": "cancellation",
            "collect_generations": "collect",
            "generate_project": "project",
            "generate_shot": "shot",
            "measure_rate_limit": "experiments",
            "measure_response_time": "experiments",
            "measure_webhooks": "experiments",
            "publish_pages": "gallery",
            "spend_report": "spend",
            "verify_videos": "verify",
        },
    )

__all__ = [
    "cancel_generations",
    "collect_generations",
    "generate_project",
    "generate_shot",
    "measure_rate_limit",
    "measure_response_time",
    "measure_webhooks",
    "publish_pages",
    "spend_report",
    "verify_videos",
]
